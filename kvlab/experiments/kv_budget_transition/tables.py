"""The tables of the report: the curve, the call, and what they rest on."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from kvlab.compression.transition import sanity
from kvlab.compression.transition.bins import curve
from kvlab.compression.transition.controls import Beside
from kvlab.compression.transition.drop import Drop
from kvlab.experiments.kv_budget_transition.estimate import Analysis
from kvlab.findings import Table
from kvlab.stats.intervals import Interval
from kvlab.stats.scores import METHOD, mean_interval

#: Columns that hold budgets, which are names: 0.8125 must not be shown as 0.812.
_BUDGETS = ("budget", "from_budget", "to_budget", "transition_budget", "good_down_to", "falls_at_and_below")
#: They keep all their digits: small ones are what is of interest.
_P_VALUES = ("p_value", "holm_p", "mcnemar_p")
#: Decimal places of what is not a share of answers.
_DIGITS = {"ms": 3, "s": 3, "bytes": 0, "min": 3}

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
    "ENGINE_ERROR": ("the engine or the connection broke", "correct the serving and resume"),
    "REFUSED_INPUT": ("the server refused the request", "read its message: too long, or a parameter that it does not take"),
    "CLIENT_STALLED": ("kvlab's own process stood still meanwhile", "its times do not count; resume on a quieter machine"),
    "OUT_OF_MEMORY": ("the engine ran out of memory", "a limit of the machine at this length, not of accuracy"),
    "UNKNOWN_FAILURE": ("none of the above", "read the stored message"),
}  # fmt: skip


def tables(found: Analysis, sessions: Sequence[Mapping[str, Any]]) -> list[Table]:
    """Return all that have a row."""
    every = [
        _curve(found), _bins(found), _flips(found), _rules(found), _bin_calls(found), _parts(found), _treatments(found),
        _integrity(found), _throughput(found, sessions), _efficiency(found), _controls(found), _assertions(found),
        _sample(found), _failure_modes(found),
    ]  # fmt: skip
    return [table for table in every if table.stored().rows]


def _table(
    found: Analysis, name: str, title: str, rows: "pd.DataFrame | Iterable[Mapping[str, Any]]", note: str = ""
) -> Table:
    """Return a table whose budgets are names."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), dtype=object)
    for column in _BUDGETS:
        if column in frame:
            frame = frame.assign(**{column: frame[column].map(lambda value: _name(found, value))})
    digits = {column: _digits(column) for column in frame.columns if column not in _P_VALUES}
    maker = f"{__name__}.{sys._getframe(1).f_code.co_qualname}"  # who called, and not this helper
    return Table(name, title, frame, note=note, digits=digits, made_by=maker)


def _digits(column: str) -> int:
    return next((digits for unit, digits in _DIGITS.items() if column.endswith(f"_{unit}")), 6)


def _name(found: Analysis, budget: float | None) -> str | None:
    return None if budget is None or pd.isna(budget) else found.scores.name(float(budget))


def _curve(found: Analysis) -> Table:
    scores, asked = found.scores, found.asked
    filled, drops = scores.filled(), {drop.budget: drop for drop in found.drops}
    rows = []
    for k, (budget, mean) in enumerate(curve(scores).items()):
        band = mean_interval(
            filled[:, k],
            scores.clusters,
            seed=asked.seed,
            confidence=asked.confidence,
            draws=asked.resamples,
        )
        n = int((~pd.isna(scores.values[:, k]) | scores.failed[:, k]).sum())
        rows.append(
            {
                "budget": budget,
                "kind": "planned" if scores.planned[k] else "added",
                "n": n,
                "acc_mean": mean,
                "acc_ci_low": band.low,
                "acc_ci_high": band.high,
                **_tested(drops.get(budget), bool(scores.planned[k])),
                "fail_rate": float(scores.labelled[:, k].sum()) / n if n else None,
                "no_answer_rate": float(scores.failed[:, k].sum()) / n if n else None,
            }
        )
    return _table(
        found,
        "accuracy_over_budget",
        "Accuracy at each budget",
        rows,
        f"Accuracy is the mean {asked.metric}, a failed answer counting as 0, with a {asked.confidence:.0%} interval "
        f"over contexts ({METHOD}). paired_drop is the mean of (1.0 - budget) on the same examples with its "
        f"{1 - asked.alpha:.0%} interval; p_value is of a drop of at most {asked.margin:g}, missing answers taken as "
        "makes it smallest. Added budgets were chosen by the answers and are not tested.",
    )


def _tested(drop: Drop | None, is_planned: bool) -> dict[str, float | None]:
    if drop is None:
        return dict.fromkeys(("paired_drop", "drop_low", "drop_high", "p_value"))
    p_value = drop.p_exceeds if is_planned and drop.n else None
    return {"paired_drop": drop.estimate, "drop_low": drop.low, "drop_high": drop.high, "p_value": p_value}


def _bins(found: Analysis) -> Table:
    return _table(
        found,
        "bin_stats",
        "Each budget in each length bin",
        found.stats,
        "acc_std is the population's. p50 needs 5 values, p95 needs 20. fail_rate counts answers that "
        "are missing or carry a failure label, no_answer_rate the missing ones alone.",
    )


def _flips(found: Analysis) -> Table:
    return _table(
        found,
        "flips",
        "Answers that flipped",
        [
            {
                "from_budget": item.high,
                "to_budget": item.low,
                "n": item.n,
                "right_to_wrong": item.right_to_wrong,
                "wrong_to_right": item.wrong_to_right,
                "mcnemar_p": item.p_value,
            }
            for item in found.flips
        ],
        "Right is a score of at least 0.5. The exact McNemar test takes examples as independent and describes each "
        "pair of budgets by itself, without correction.",
    )


def _rules(found: Analysis) -> Table:
    point, drop = found.point, found.called_drop
    known = [(share, -b) for b, share in enumerate(found.worst) if share is not None]
    rows = [
        {
            "rule": "point rule",
            "says": f"first step of at least {found.asked.drop_threshold:g} against the budget before",
            "transition_budget": point.transition_budget,
            "good_down_to": point.pre_budget,
            "drop": point.drop,
            "drop_low": None,
            "drop_high": None,
            "worst_bin": point.transition_bin_idx,
        },
        {
            "rule": "calibrated",
            "says": found.call.outcome,
            "transition_budget": found.call.fails_at,
            "good_down_to": found.call.holds_at,
            "drop": drop.estimate if drop else None,
            "drop_low": drop.low if drop else None,
            "drop_high": drop.high if drop else None,
            "worst_bin": -max(known)[1] if known else None,
        },
    ]
    return _table(
        found,
        "transition",
        "Both rules",
        rows,
        "The point rule has no error rate: on answers without any transition it calls one the more often, the more "
        "budgets and the fewer examples there are. Its good_down_to is the budget before the step, its drop is against "
        "that one. The calibrated rule's is the smallest planned budget down to which a drop below the margin is "
        "shown (1.0: of none), its drop is against 1.0.",
    )


def _bin_calls(found: Analysis) -> Table:
    # None where there is one budget: then there are no calls to go with the bins.
    parts = zip(found.bin_calls, found.worst, found.bin_detectable, strict=False)
    rows = [
        {
            "bin_idx": item.bin_idx,
            "n": item.drop.n,
            "drop": item.drop.estimate,
            "drop_low": item.drop.low,
            "drop_high": item.drop.high,
            "holm_p": item.p_adjusted if item.drop.n else None,
            "falls": item.falls,
            "falls_at_and_below": item.fails_at,
            "worst_share": worst,
            "minimum_detectable_drop": least.drop,
            "reason": item.drop.reason or least.reason,
        }
        for item, worst, least in parts
    ]
    lowest = found.call.drops[-1].budget if found.call.drops else None
    return _table(
        found,
        "bin_calls",
        "Which length bins fall" + ("" if lowest is None else f" (at budget {found.scores.name(lowest)}, against 1.0)"),
        rows,
        f"falls: Holm over the bins, at {found.asked.alpha / 2:g}, for a drop above {found.asked.margin:g}. worst_share: in "
        f"which share of resamples the bin has the largest drop at budget {_name(found, found.focus) or '–'}. "
        "minimum_detectable_drop: called with a probability of 80 % at the level of the first step of Holm.",
    )  # fmt: skip


def _parts(found: Analysis) -> Table:
    return _table(
        found,
        "drop_parts",
        "What the drop is made of",
        [
            {
                "budget": part.budget,
                "n": part.n,
                "drop": part.drop,
                "from_no_answer": part.no_answer,
                "from_broken_answers": part.broken,
                "from_labelled_wrong_answers": part.labelled,
                "from_wrong_answers": part.wrong,
                "driven_by": part.driven_by,
            }
            for part in found.parts
        ],
        "The four parts add up to the drop. An example belongs to the first where one of its two answers is missing, to "
        "the second where one answers nothing (empty, refused, repeating itself, or to a prompt that was cut), to the third "
        "where one was cut off or is of another form: it is an answer, and less right. Else to the fourth. Failures are the "
        "first two, wrong answers the others; driven_by names what makes at least three quarters.",
    )


def _treatments(found: Analysis) -> Table:
    names = {"zero": "0", "missing": "missing", "worst": "largest drop", "best": "smallest drop"}
    rows = []
    for treatment, call in found.treatments.items():
        at = next((drop for drop in call.drops if drop.budget == found.focus), None)
        rows.append(
            {
                "failures_count_as": names[treatment],
                "outcome": call.outcome,
                "transition_budget": call.fails_at,
                "n": at.n if at else None,
                "drop": at.estimate if at else None,
                "drop_low": at.low if at else None,
                "drop_high": at.high if at else None,
            }
        )
    return _table(
        found,
        "failure_treatments",
        "The call under every treatment of failed answers",
        rows,
        f"The drop is at budget {_name(found, found.focus) or '–'}. largest and smallest drop take every missing answer as "
        "right or wrong, whichever makes the drop so: the truth lies between.",
    )


def _integrity(found: Analysis) -> Table:
    shares = found.integrity.astype(object)
    if "n" in shares.index:
        shares.loc["n"] = found.integrity.loc["n"].astype(int)
    shares.columns = [found.scores.name(float(budget)) for budget in shares.columns]
    return _table(
        found,
        "integrity",
        "Failures by kind (share of the answers asked for)",
        shares.rename_axis("label").reset_index() if len(shares.columns) else [],
        "One column a budget; n is the answers asked for, none the share without a label.",
    )


def _throughput(found: Analysis, sessions: Sequence[Mapping[str, Any]]) -> Table:
    return _table(
        found,
        "throughput",
        "What each session got done",
        sessions,
        "Over the time from a session's first request to the end of its last: pauses, retries, lost attempts, controls "
        "and timed passes included.",
    )


def _efficiency(found: Analysis) -> Table:
    return _table(
        found,
        "efficiency",
        "What an answer costs",
        found.efficiency,
        "Means over answers; times are of the timed pass where there is one, one answer at a time; timed_n is how many, "
        "and a median needs 5. A dash: not measured. of_latency is over the sum of the latencies, without what passes "
        "between answers. The cost needs the two prices in the parameters.",
    )


def _controls(found: Analysis) -> Table:
    noise = found.noise
    rows: list[dict[str, Any]] = []
    if noise.difference.n:
        same = {"n": noise.n, "policy_acc": None, "control_acc": None}
        rows.append({"control": "budget 1.0 once more", "budget": 1.0, **same, **_ends(noise.difference)})
    rows += [_beside("random entries kept", item) for item in found.random]
    if found.no_context:
        rows.append(_beside("no context", found.no_context))
    return _table(
        found,
        "controls",
        "Controls",
        rows,
        "difference is policy - control on the same examples (first - second time, for budget 1.0 once more, on every "
        "second example), with its interval over contexts. Without the context, the policy's accuracy is that of budget 1.0.",
    )


def _beside(name: str, item: Beside) -> dict[str, Any]:
    means = {"policy_acc": item.policy, "control_acc": item.control}
    return {"control": name, "budget": item.budget, "n": item.n, **means, **_ends(item.difference)}


def _ends(interval: Interval) -> dict[str, float | None]:
    return {"difference": interval.estimate, "low": interval.low, "high": interval.high}


def _assertions(found: Analysis) -> Table:
    rows = [
        {"assertion": item.name, "asks": item.asks, "seen": item.seen, "passed": item.passed}
        for item in found.assertions
    ]
    return _table(found, "assertions", "What must hold if the scores mean something", rows)


def _sample(found: Analysis) -> Table:
    columns = ["budget", "example_id", "bin_idx", "outcome", "f1", "em", "text", "answers"]
    picked = sanity.sample(found.frame, seed=found.asked.seed).reindex(columns=columns)
    for name in ("text", "answers"):
        picked[name] = picked[name].map(lambda text: None if pd.isna(text) else _short(str(text)))
    return _table(
        found,
        "raw_sample",
        f"Raw answers to read beside their scores ({sanity.SAMPLE} examples, drawn with the seed)",
        picked,
        "The same examples at every budget. Texts are cut at 100 characters; the database has all of them.",
    )


def _short(text: str, limit: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def _failure_modes(found: Analysis) -> Table:
    labels = found.frame["outcome"].value_counts()
    rows = [
        {"label": name, "in_this_run": int(labels.get(name, 0)), "means": means, "what_to_do": advice}
        for name, (means, advice) in MEANINGS.items()
    ]
    return _table(
        found,
        "failure_modes",
        "How to read a failure",
        rows,
        "Counted over all phases. A label and a score are independent: a truncated answer may be right.",
    )
