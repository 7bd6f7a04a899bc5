"""The tables of the curve and of the transition."""

import pandas as pd

from kvlab.compression.transition.bins import curve
from kvlab.compression.transition.drop import Drop
from kvlab.experiments.kv_budget_transition.analysis import Analysis, AnalysisParams, bin_stats
from kvlab.experiments.kv_budget_transition.cells import table
from kvlab.findings import Table
from kvlab.stats.scores import METHOD, mean_interval


def tables(found: Analysis, params: AnalysisParams) -> list[Table]:
    """Return all of them."""
    return [
        _curve(found, params), _bins(found, params), _flips(found), _rules(found, params), _bin_calls(found, params)
    ]  # fmt: skip


def _curve(found: Analysis, params: AnalysisParams) -> Table:
    scores = found.scores
    filled, drops = scores.filled(), {drop.budget: drop for drop in found.drops}
    rows = []
    for k, (budget, mean) in enumerate(curve(scores).items()):
        band = mean_interval(
            filled[:, k],
            scores.clusters,
            seed=params.seed,
            confidence=params.confidence,
            draws=params.resamples,
        )
        asked = int((~pd.isna(scores.values[:, k]) | scores.failed[:, k]).sum())
        kind = "planned" if scores.planned[k] else "added"
        lost = [
            float(flags[:, k].sum()) / asked if asked else None for flags in (scores.labelled, scores.failed)
        ]
        rows.append(
            [
                budget,
                kind,
                asked,
                mean,
                band.low,
                band.high,
                *_tested(drops.get(budget), bool(scores.planned[k])),
                *lost,
            ]
        )
    return table(
        "accuracy_over_budget",
        "Accuracy at each budget",
        ["budget", "kind", "n", "acc_mean", "acc_ci_low", "acc_ci_high", "paired_drop", "drop_low", "drop_high",
         "p_value", "fail_rate", "no_answer_rate"],
        rows,
        f"Accuracy is the mean {params.metric}, a failed answer counting as 0, with a {params.confidence:.0%} interval "
        f"over contexts ({METHOD}). paired_drop is the mean of (1.0 - budget) on the same examples with its "
        f"{1 - params.alpha:.0%} interval; p_value is of a drop of at most {params.margin:g}, missing answers taken as "
        "makes it smallest. Added budgets were chosen by the answers and are not tested.",
    )  # fmt: skip


def _tested(drop: Drop | None, planned: bool) -> list[float | None]:
    if drop is None:
        return [None] * 4
    return [drop.estimate, drop.low, drop.high, drop.p_exceeds if planned and drop.n else None]


def _bins(found: Analysis, params: AnalysisParams) -> Table:
    stats = bin_stats(found.frame, params)
    rows = stats.to_numpy(dtype=object).tolist()
    return table(
        "bin_stats",
        "Each budget in each length bin",
        list(stats.columns),
        rows,
        "acc_std is the population's. p50 needs 5 values, p95 needs 20. fail_rate counts answers that "
        "are missing or carry a failure label, no_answer_rate the missing ones alone.",
    )


def _flips(found: Analysis) -> Table:
    rows = [
        [item.high, item.low, item.n, item.right_to_wrong, item.wrong_to_right, item.p_value]
        for item in found.flips
    ]
    return table(
        "flips",
        "Answers that flipped",
        ["from_budget", "to_budget", "n", "right_to_wrong", "wrong_to_right", "mcnemar_p"],
        rows,
        "Right is a score of at least 0.5. The exact McNemar test takes examples as independent and describes each "
        "pair of budgets by itself, without correction.",
    )


def _rules(found: Analysis, params: AnalysisParams) -> Table:
    point, drop = found.point, found.called_drop
    rows = [
        ["point rule", f"first step of at least {params.drop_threshold:g} against the budget before", point.transition_budget,
         point.pre_budget, point.drop, None, None, point.transition_bin_idx],
        ["calibrated", found.call.outcome, found.call.fails_at, found.call.holds_at,
         drop.estimate if drop else None, drop.low if drop else None, drop.high if drop else None, _worst(found)],
    ]  # fmt: skip
    return table(
        "transition",
        "Both rules",
        ["rule", "says", "transition_budget", "good_down_to", "drop", "drop_low", "drop_high", "worst_bin"],
        rows,
        "The point rule has no error rate: on answers without any transition it calls one the more often, the more "
        "budgets and the fewer examples there are. Its good_down_to is the budget before the step, its drop is against "
        "that one. The calibrated rule's is the smallest planned budget down to which a drop below the margin is "
        "shown (1.0: of none), its drop is against 1.0.",
    )


def _named(found: Analysis, budget: float | None) -> str:
    return "–" if budget is None else found.scores.name(budget)


def _worst(found: Analysis) -> int | None:
    known = [(share, -b) for b, share in enumerate(found.worst) if share is not None]
    return -max(known)[1] if known else None


def _bin_calls(found: Analysis, params: AnalysisParams) -> Table:
    rows = []  # none where there is one budget: then there are no calls to go with the bins
    for item, worst, least in zip(found.bin_calls, found.worst, found.bin_detectable, strict=False):
        drop = item.drop
        why = drop.reason or least.reason
        rows.append(
            [item.bin_idx, drop.n, drop.estimate, drop.low, drop.high, item.p_adjusted if drop.n else None, item.falls,
             item.fails_at, worst, least.drop, why]
        )  # fmt: skip
    lowest = found.call.drops[-1].budget if found.call.drops else None
    return table(
        "bin_calls",
        "Which length bins fall" + ("" if lowest is None else f" (at budget {found.scores.name(lowest)}, against 1.0)"),
        ["bin_idx", "n", "drop", "drop_low", "drop_high", "holm_p", "falls", "falls_at_and_below", "worst_share",
         "minimum_detectable_drop", "reason"],
        rows,
        f"falls: Holm over the bins, at {params.alpha / 2:g}, for a drop above {params.margin:g}. worst_share: in which "
        f"share of resamples the bin has the largest drop at budget {_named(found, found.focus)}. minimum_detectable_drop: "
        "called with a probability of 80 % at the level of the first step of Holm.",
    )  # fmt: skip
