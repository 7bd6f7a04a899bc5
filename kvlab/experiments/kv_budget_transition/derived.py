"""The tables that follow from the answers: scores, bin_stats, transition_summary."""

from typing import TYPE_CHECKING, Any

from kvlab.experiments.kv_budget_transition import analysis, frame, store
from kvlab.experiments.kv_budget_transition.asked import Asked
from kvlab.experiments.kv_budget_transition.cells import clean
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.store.database import Database, to_json

if TYPE_CHECKING:
    import pandas as pd

_STATS = (
    "phase", "bin_idx", "n", "acc_mean", "acc_std", "acc_ci_low", "acc_ci_high", "f1_mean", "em_mean", "contains_mean",
    "fail_rate", "no_answer_rate", "latency_p50_ms", "latency_p95_ms", "tokens_p50", "tokens_p95",
)  # fmt: skip
_POINT = ("transition_budget", "pre_budget", "acc_pre", "acc_post", "drop", "method", "transition_bin_idx")


def bring_up_to_date(database: Database, params: KVBudgetTransitionParams) -> None:
    """Score new answers; write bin_stats and transition_summary anew where their inputs have changed."""
    if not store.count(database, "datasets"):
        return
    store.write_manifest(database)
    store.score(database)
    inputs = store.analysis_inputs(database, params)
    if store.is_done(database, "aggregate", inputs):
        return
    answers = frame.answers(database.sql, params.kv.query_mode)
    if answers.empty:
        return
    asked = Asked.of(params, answers)
    stats, transition = _bin_rows(database, answers, asked), _transition_row(database, answers, asked)
    with database.transaction():
        database.sql.execute("DELETE FROM bin_stats")
        database.sql.execute("DELETE FROM transition_summary")
        for row in stats:
            database.insert("bin_stats", **row)
        database.insert("transition_summary", **transition)
        store.mark(database, "aggregate", inputs)


def _bin_rows(database: Database, answers: "pd.DataFrame", asked: Asked) -> list[dict[str, Any]]:
    dataset_id = database.sql.execute("SELECT dataset_id FROM datasets").fetchone()[0]
    runs = answers.groupby(["policy", "budget", "phase"])["run_id"].first()
    return [
        {
            "run_id": runs[row["policy"], row["budget"], row["phase"]],
            "dataset_id": dataset_id,
            **{name: clean(row[name]) for name in _STATS},
        }
        for row in analysis.bin_stats(answers, asked).to_dict("records")
    ]


def _transition_row(database: Database, answers: "pd.DataFrame", asked: Asked) -> dict[str, Any]:
    found = {name: clean(value) for name, value in analysis.transition_summary(answers, asked).items()}
    row = {name: found.pop(name) for name in _POINT}
    experiment_id = database.sql.execute("SELECT experiment_id FROM experiments").fetchone()[0]
    return {
        "experiment_id": experiment_id,
        **{f'"{name}"' if name == "drop" else name: value for name, value in row.items()},
        "calibrated_json": to_json(found),
    }
