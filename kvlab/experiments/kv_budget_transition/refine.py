"""Which budget a round of the refinement adds: decided once, out of the answers so far, and stored."""

from typing import TYPE_CHECKING

from kvlab.experiments.kv_budget_transition import frame as frames
from kvlab.experiments.kv_budget_transition import store
from kvlab.experiments.kv_budget_transition.asked import metric_of
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams

if TYPE_CHECKING:
    from kvlab.store.database import Database


def budget_of(
    database: "Database", params: KVBudgetTransitionParams, round_number: int, floor: float
) -> float | None:
    """Return the budget of a round, decided and stored at its first call; ``None``: nothing to refine.

    The same answers give the same budget. Stored before it is measured: a kill in between, or an
    answer that comes later, changes nothing.
    """
    query = "SELECT budget FROM added_budgets WHERE round = ?"
    row = database.sql.execute(query, (round_number,)).fetchone()
    if row is None:
        budget, reason = _decide(database, params, round_number, floor)
        with database.transaction():
            database.insert("added_budgets", round=round_number, budget=budget, reason=reason)
        print(f"round {round_number}: {reason}", flush=True)
        return budget
    return None if row["budget"] is None else float(row["budget"])


def _decide(
    database: "Database", params: KVBudgetTransitionParams, round_number: int, floor: float
) -> tuple[float | None, str]:
    from kvlab.transition.refine import next_budget  # with pandas in its package, only while measuring

    decided = database.sql.execute("SELECT count(*) FROM added_budgets WHERE budget IS NULL").fetchone()[0]
    if decided:
        return None, "nothing is left to refine"
    store.score(database)
    answers = frames.answers(database.sql, params.kv.query_mode)
    answers = answers[answers["phase"].isin(("planned", "added"))]
    metric = metric_of(params, set(answers["metric"].dropna()))
    curve = answers[metric].where(~answers["failed"], 0.0).groupby(answers["budget"]).mean()
    budget = next_budget(
        {float(str(key)): float(value) for key, value in curve.items()},
        params.rounds,
        params.kv.min_budget_gap,
        planned=len(params.kv.budgets),
        min_drop=params.analysis.margin,
        floor=floor,
    )
    if budget is None:
        return (
            None,
            f"no fall of mean {metric} above the margin is left that is wide enough to halve",
        )
    high = min(key for key in curve.index if key > budget)
    low = max(key for key in curve.index if key < budget)
    fall = f"mean {metric} falls from {curve[high]:.3f} to {curve[low]:.3f}"
    return budget, f"budget {budget:g} is added: between {high:g} and {low:g} {fall}"
