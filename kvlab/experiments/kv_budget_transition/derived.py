"""The tables that follow from the answers: scores, bin_stats, transition_summary."""

from kvlab.experiments.kv_budget_transition import analysis, frame, store
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.store.database import Database


def bring_up_to_date(database: Database, params: KVBudgetTransitionParams) -> None:
    """Score new answers; write bin_stats and transition_summary anew where their inputs have changed."""
    store.score(database)
    inputs = store.analysis_inputs(database, params)
    if store.is_done(database, "aggregate", inputs):
        return
    answers = frame.answers(database.sql, params.kv.query_mode)
    if answers.empty:
        return
    with database.transaction():
        database.sql.execute("DELETE FROM bin_stats")
        database.sql.execute("DELETE FROM transition_summary")
        for row in analysis.bin_stats(answers, params):
            database.insert("bin_stats", **row)
        database.insert("transition_summary", **_transition(database, answers, params))
        store.mark(database, "aggregate", inputs)


def _transition(
    database: Database, answers: "pd.DataFrame", params: KVBudgetTransitionParams
) -> dict[str, Any]:
    experiment = database.sql.execute("SELECT experiment_id FROM experiments").fetchone()[0]
    return {"experiment_id": experiment, **analysis.transition_summary(answers, params)}
