"""The tables of the report."""

from typing import Any

import pandas as pd

from kvlab.experiments.kv_budget_transition.analysis import Analysis, AnalysisParams, bin_stats
from kvlab.stats import Interval
from kvlab.summary import Table
from kvlab.transition import sanity
from kvlab.transition.bins import curve
from kvlab.transition.bootstrap import mean_interval
from kvlab.transition.controls import Beside

#: What a label means, and what to do about it.
MEANINGS = {
    "EMPTY_OUTPUT": ("no text, or only white space", "compare with budget 1.0: compression, or a refusal"),
    "TRUNCATED": ("cut off at the generation limit", "may still be right: scored as it is; raise the limit if 1.0 has it too"),
    "DEGENERATE_REPETITION": ("the same words again and again", "a sign of a cache that lost too much"),
    "REFUSAL": ("the model declined", "keep apart from compression: does 1.0 refuse the same questions?"),
    "FORMAT_ERROR": ("not of the form that the task asks for", "read some of them: the score may miss a right answer"),
    "INPUT_TRUNCATED": ("the prompt did not fit and was cut", "not a matter of the budget: shorten the contexts"),
    "RATE_LIMITED": ("the server asked to slow down", "lower max_rpm and resume; not a matter of the model"),
    "TIMEOUT": ("no answer in time", "resume; if it stays, the serving is too slow for this length"),
    "ENGINE_ERROR": ("the engine or the connection broke", "mend the serving and resume"),
    "OUT_OF_MEMORY": ("the engine ran out of memory", "a limit of the machine at this length, not of accuracy"),
    "UNKNOWN_FAILURE": ("none of the above", "read the stored message"),
}  # fmt: skip


#: Columns that hold budgets, which are names: 0.8125 must not be shown as 0.812.
_BUDGETS = ("budget", "from_budget", "to_budget", "transition_budget", "good_down_to", "falls_at_and_below")


def tables(found: Analysis, params: AnalysisParams) -> list[Table]:
    """Return all of them, those without a row left out."""
    made = [
        _curve(found, params), _bins(found, params), _flips(found), _rules(found, params), _bin_calls(found, params),
        _parts(found), _treatments(found), _integrity(found), _efficiency(found), _controls(found),
        _assertions(found), _sample(found, params), _failure_modes(found),
    ]  # fmt: skip
    return [table for table in made if table.rows]


def clean(value: Any) -> Any:  # noqa: ANN401 - a cell
    """Return a cell with NaN as ``None``, floats with 6 significant digits."""
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if value is None or pd.isna(value):
        return None
    if hasattr(value, "item"):
        value = value.item()
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _table(name: str, title: str, columns: list[str], rows: list[list[Any]], note: str = "") -> Table:
    cells = [
        [
            _budget(cell) if column in _BUDGETS and cell is not None else cell
            for column, cell in zip(columns, row, strict=True)
        ]
        for row in map(clean, rows)
    ]
    return Table(name=name, title=title, columns=columns, rows=cells, note=note)


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
            resamples=params.resamples,
        )
        drop = drops.get(budget)
        tested = (
            [None] * 4
            if drop is None
            else [
                drop.estimate,
                drop.low,
                drop.high,
                drop.p_exceeds if scores.planned[k] and drop.n else None,
            ]
        )
        asked = int((~pd.isna(scores.values[:, k]) | scores.failed[:, k]).sum())
        kind = "planned" if scores.planned[k] else "added"
        lost = [
            float(flags[:, k].sum()) / asked if asked else None for flags in (scores.labelled, scores.failed)
        ]
        rows.append([budget, kind, asked, mean, band.low, band.high, *tested, *lost])
    return _table(
        "accuracy_over_budget",
        "Accuracy at each budget",
        ["budget", "kind", "n", "acc_mean", "acc_ci_low", "acc_ci_high", "paired_drop", "drop_low", "drop_high",
         "p_value", "fail_rate", "no_answer_rate"],
        rows,
        f"Accuracy is the mean {params.metric}, a failed answer counting as 0, with a {params.confidence:.0%} bootstrap "
        f"interval over contexts. paired_drop is the mean of (1.0 - budget) on the same examples with its "
        f"{1 - params.alpha:.0%} clustered t interval; p_value is of a drop of at most {params.margin:g}. Added "
        "budgets were chosen by the answers and are not tested.",
    )  # fmt: skip


def _bins(found: Analysis, params: AnalysisParams) -> Table:
    stats = bin_stats(found.frame, params)
    rows = stats.to_numpy(dtype=object).tolist()
    return _table(
        "bin_stats",
        "Each budget in each length bin",
        list(stats.columns),
        rows,
        "acc_std is the population's. A bin in which all answers are equal has a point for an interval: it says "
        "nothing of answers not asked for. p50 needs 5 values, p95 needs 20. fail_rate counts answers that "
        "are missing or carry a failure label, no_answer_rate the missing ones alone.",
    )


def _flips(found: Analysis) -> Table:
    rows = [
        [item.high, item.low, item.n, item.right_to_wrong, item.wrong_to_right, item.p_value]
        for item in found.flips
    ]
    return _table(
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
    return _table(
        "transition",
        "Both rules",
        ["rule", "says", "transition_budget", "good_down_to", "drop", "drop_low", "drop_high", "worst_bin"],
        rows,
        "The point rule has no error rate: on answers without any transition it calls one the more often, the more "
        "budgets and the fewer examples there are. Its good_down_to is the budget before the step, its drop is against "
        "that one. The calibrated rule's is the smallest planned budget down to which a drop below the margin is "
        "shown (1.0: of none), its drop is against 1.0.",
    )


def _worst(found: Analysis) -> int | None:
    known = [(share, -b) for b, share in enumerate(found.worst) if share is not None]
    return -max(known)[1] if known else None


def _bin_calls(found: Analysis, params: AnalysisParams) -> Table:
    rows = []
    for item, worst, least in zip(found.bin_calls, found.worst, found.bin_detectable, strict=True):
        drop = item.drop
        why = drop.reason or least.reason
        rows.append(
            [item.bin_idx, drop.n, drop.estimate, drop.low, drop.high, item.p_adjusted if drop.n else None, item.falls,
             item.fails_at, worst, least.drop, why]
        )  # fmt: skip
    lowest = found.call.drops[-1].budget if found.call.drops else None
    return _table(
        "bin_calls",
        "Which length bins fall" + ("" if lowest is None else f" (at budget {lowest:g}, against 1.0)"),
        ["bin_idx", "n", "drop", "drop_low", "drop_high", "holm_p", "falls", "falls_at_and_below", "worst_share",
         "minimum_detectable_drop", "reason"],
        rows,
        f"falls: Holm over the bins, at {params.alpha / 2:g}, for a drop above {params.margin:g}. worst_share: in which "
        f"share of resamples the bin has the largest drop at budget {_budget(found.focus)}. minimum_detectable_drop: "
        "called with a probability of 80 % at the level of the first step of Holm.",
    )  # fmt: skip


def _budget(budget: float | None) -> str:
    return "–" if budget is None else f"{budget:g}"


def _parts(found: Analysis) -> Table:
    rows = [[p.budget, p.n, p.drop, p.no_answer, p.labelled, p.wrong, p.driven_by] for p in found.parts]
    return _table(
        "drop_parts",
        "What the drop is made of",
        ["budget", "n", "drop", "from_no_answer", "from_labelled_answers", "from_wrong_answers", "driven_by"],
        rows,
        "The three parts add up to the drop. An example belongs to the first where one of its two answers is missing, "
        "to the second where one carries a failure label (a truncated answer may still be right), else to the third. "
        "driven_by names what makes at least three quarters.",
    )


def _treatments(found: Analysis) -> Table:
    names = {
        "zero": "0 (the call above)",
        "missing": "missing",
        "worst": "largest drop",
        "best": "smallest drop",
    }
    rows = []
    for treatment, call in found.treatments.items():
        at = next((drop for drop in call.drops if drop.budget == found.focus), None)
        shown = [None] * 4 if at is None else [at.n, at.estimate, at.low, at.high]
        rows.append([names[treatment], call.outcome, call.fails_at, *shown])
    return _table(
        "failure_treatments",
        "The call under every treatment of failed answers",
        ["failures_count_as", "outcome", "transition_budget", "n", "drop", "drop_low", "drop_high"],
        rows,
        f"The drop is at budget {_budget(found.focus)}. largest and smallest drop take every missing answer as right "
        "or wrong, whichever makes the drop so: the truth lies between.",
    )


def _integrity(found: Analysis) -> Table:
    table = found.integrity
    rows = [
        [str(label), *(map(int, values) if label == "n" else values)]
        for label, values in zip(table.index, table.to_numpy().tolist(), strict=True)
    ]
    return _table(
        "integrity",
        "Failures by kind (share of the answers asked for)",
        ["label", *(f"{budget:g}" for budget in table.columns)],
        rows if len(table.columns) else [],
        "One column a budget; n is the answers asked for, none the share without a label.",
    )


def _efficiency(found: Analysis) -> Table:
    return _table(
        "efficiency",
        "What an answer costs",
        list(found.efficiency.columns),
        found.efficiency.to_numpy(dtype=object).tolist(),
        "Means over answers; times are of the timed pass where there is one, one answer at a time. A dash: not measured. "
        "The cost needs the two prices in the parameters.",
    )


def _controls(found: Analysis) -> Table:
    noise = found.noise
    rows: list[list[Any]] = []
    if noise.difference.n:
        rows.append(["budget 1.0 once more", 1.0, noise.difference.n, None, None, *_ends(noise.difference)])
    rows += [_beside("random entries kept", item) for item in found.random]
    if found.no_context:
        rows.append(_beside("no context", found.no_context))
    return _table(
        "controls",
        "Controls",
        ["control", "budget", "n", "policy_acc", "control_acc", "difference", "low", "high"],
        rows,
        "difference is policy - control on the same examples (first - second time, for budget 1.0 once more), with a "
        "bootstrap interval over contexts. Without the context, the policy's accuracy is that of budget 1.0.",
    )


def _beside(name: str, item: Beside) -> list[Any]:
    return [name, item.budget, item.n, item.policy, item.control, *_ends(item.difference)]


def _ends(interval: Interval) -> list[float | None]:
    return [interval.estimate, interval.low, interval.high]


def _assertions(found: Analysis) -> Table:
    rows = [[item.name, item.asks, item.seen, item.holds] for item in found.assertions]
    return _table(
        "assertions",
        "What must hold if the scores mean something",
        ["assertion", "asks", "seen", "holds"],
        rows,
    )


def _sample(found: Analysis, params: AnalysisParams) -> Table:
    picked = sanity.sample(found.frame, seed=params.seed)
    columns = ["budget", "example_id", "bin_idx", "outcome", "f1", "em", "text", "answers"]
    picked = picked.reindex(columns=columns)
    for name in ("text", "answers"):
        picked[name] = picked[name].map(lambda text: None if pd.isna(text) else _short(str(text)))
    return _table(
        "raw_sample",
        f"Raw answers to read beside their scores ({sanity.SAMPLE} examples, drawn with the seed)",
        columns,
        picked.to_numpy(dtype=object).tolist(),
        "The same examples at every budget. Texts are cut at 100 characters; the database has all of them.",
    )


def _short(text: str, limit: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def _failure_modes(found: Analysis) -> Table:
    labels = found.frame["outcome"].value_counts()
    rows = [[name, int(labels.get(name, 0)), *meaning] for name, meaning in MEANINGS.items()]
    return _table(
        "failure_modes",
        "How to read a failure",
        ["label", "in_this_run", "means", "what_to_do"],
        rows,
        "Counted over all phases. A label and a score are independent: a truncated answer may be right.",
    )
