"""Which budget a round of the refinement adds: decided once, out of the answers so far, and stored."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kvlab.compression.policies import Budget
from kvlab.compression.transition.refine import halve
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
    from kvlab.compression.transition.refine import (
        next_budget,  # with pandas in its package, only while measuring
    )

    decided = database.sql.execute("SELECT count(*) FROM added_budgets WHERE budget IS NULL").fetchone()[0]
    if decided:
        return None, "nothing is left to refine"
    store.score(database)
    answers = frames.answers(database.sql, params.kv.query_mode)
    answers = answers[answers["phase"].isin(("planned", "added"))]
    metric = metric_of(params, set(answers["metric"].dropna()))
    curve = answers[metric].where(~answers["failed"], 0.0).groupby(answers["budget"]).mean()
    tokens = {
        share: int(asked)
        for share, asked in zip(answers["budget"], answers["asked"], strict=True)
        if asked > 1
    }
    shortest = database.sql.execute("SELECT min(token_len) FROM manifest_entries").fetchone()[0]
    gap = params.kv.min_budget_gap
    budget = next_budget(
        {float(str(key)): float(value) for key, value in curve.items()},
        params.rounds,
        gap,
        planned=len(params.kv.budgets),
        min_drop=params.analysis.margin,
        middle=lambda high, low: _middle(high, low, tokens, gap, floor, shortest),
    )
    if budget is None:
        return (
            None,
            f"no fall of mean {metric} above the margin is left that is wide enough to halve",
        )
    place = frames.shares(database.sql, {*answers["asked"], budget})[budget]
    high = min(key for key in curve.index if key > place)
    low = max(key for key in curve.index if key < place)
    names = [Budget.of(value).label for value in (budget, tokens.get(high, high), tokens.get(low, low))]
    fall = f"mean {metric} falls from {curve[high]:.3f} to {curve[low]:.3f}"
    return budget, f"budget {names[0]} is added: between {names[1]} and {names[2]} {fall}"


def _middle(
    high: float, low: float, tokens: Mapping[float, int], gap: float, floor: float, shortest: int
) -> float | None:
    """Return the middle of two budgets in their own unit; ``None`` across units, or where nothing fits.

    1.0 is of either unit. The most entries that are still a budget on every context are one fewer than
    the shortest context has; gap and floor are shares of that one.
    """
    if low not in tokens:
        return None if high in tokens else halve(high, low, gap, floor)
    most = tokens.get(high, shortest - 1 if high == 1.0 else 0)
    middle = (most + tokens[low]) // 2
    fits = most - tokens[low] >= max(2, 2 * gap * shortest) and middle >= floor * shortest
    return float(middle) if fits else None
