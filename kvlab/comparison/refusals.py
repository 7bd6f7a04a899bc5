"""May two sides be compared? Each way in which they may not has a name, the field's; what weakens a claim is said.

A comparison answers "which is faster at the same work". Where the work differs (prompts, lengths, what the cache
held, the law by which it reuses) the ratio of times is a fact about the work, and no answer. Whoever wants just
that difference compared names the field (``across``).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kvlab.comparison import values
from kvlab.comparison.sides import Side, is_running
from kvlab.machine_load import BUSY_SHARE

#: By so much two shares of requests may differ (5 points).
SHARE = 0.05
#: By so much two lengths may (1 %).
LENGTH = 0.01
#: Parameters that say how often, in which order and how patiently something is measured, and not what.
HOW = frozenset((
    "isolation_id", "max_attempts", "outage_s", "max_failed_fraction", "seed", "repeats", "num_trials", "order",
    "position_controls", "confidence", "starts", "min_valid_fraction", "ttft_min_reduction_fraction", "compare_metric",
    "compare_margin", "target_requests", "analysis", "memory_interval_s", "memory_limit_bytes",
))  # fmt: skip
#: Ways that no ``across`` opens: without them there is nothing to compare.
FINAL = frozenset(("experiment", "unfinished", "compare_metric", "compare_margin", "failures"))


@dataclass(frozen=True)
class Objection:
    """Why two sides may not be compared.

    Attributes:
        field: What stands in the way; what ``across`` would name.
        why: In one clause.
    """

    field: str
    why: str

    def __str__(self) -> str:
        way = "" if self.field in FINAL else f"; if that is what you compare, add --across {self.field}"
        return f"{self.field}: {self.why}{way}"


def objections(first: Side, second: Side, metric: str, across: Collection[str]) -> list[Objection]:
    """Return every reason against comparing the two on a metric, but those that ``across`` names."""
    found = [
        *_stored(first, second),
        *_of_contracts(first, second),
        *_of_params(first, second),
        *_failed(first, second),
    ]
    kept = [item for item in found if item.field in FINAL or not _named(item.field, across)]
    return [*kept, *of_metric(first, second, metric, across)]


def _named(field: str, across: Collection[str]) -> bool:
    return field in across or field.split(".")[0] in across


def _stored(first: Side, second: Side) -> Iterator[Objection]:
    kinds = [str(side.first.stored["name"]) for side in (first, second)]
    if kinds[0] != kinds[1]:
        yield Objection("experiment", f"one is of {kinds[0]}, the other of {kinds[1]}")
    for side in (first, second):
        for run in side.runs:
            left = run.trials["planned"] - run.trials.get("done", 0) - run.trials.get("failed", 0)
            if is_running(run) or left:
                yield Objection(
                    "unfinished",
                    f"{run.name} has {left} of {run.trials['planned']} trials to measure; finish it first "
                    "(a run that stopped where it was slow looks fast)",
                )


def _of_contracts(first: Side, second: Side) -> Iterator[Objection]:
    """Yield what differs between any two runs of the two sides."""
    runs = [*first.runs, *second.runs]
    head = runs[0]
    for field in ("prompt_template_hash", "dataset_hash", "query_mode", "policy", "tokenizer"):
        others = [run.stored["contract"].get(field) for run in runs]
        other = next((value for value in others if value != others[0]), others[0])
        if other != others[0]:
            yield Objection(field, f"{_short(others[0])} against {_short(other)}")
    models = [_model(run.stored["contract"]) for run in runs]
    if len(set(models)) > 1:
        yield Objection("model", " against ".join(dict.fromkeys(models)))
    laws = [None if run.identity is None else run.identity.law for run in runs]
    other_law = next((law for law in laws if law != laws[0]), laws[0])
    if head.identity is not None and other_law != laws[0]:
        yield Objection("law", f"what the cache reuses differs: {_law(laws[0])} against {_law(other_law)}")


def _model(contract: Mapping[str, Any]) -> str:
    model = contract.get("model") or {}
    return str(model.get("revision") or model.get("name") or "unknown")


def _law(law: object) -> str:
    return "unknown" if law is None else str(getattr(law, "words", law))


def _of_params(first: Side, second: Side) -> Iterator[Objection]:
    one = first.first.stored["params"]
    for run in (*first.runs[1:], *second.runs):
        other = run.stored["params"]
        for field in sorted({*one, *other}):
            if field in HOW or one.get(field) == other.get(field):
                continue
            yield Objection(f"params.{field}", f"{_short(one.get(field))} against {_short(other.get(field))}")
            return


def _failed(first: Side, second: Side) -> Iterator[Objection]:
    shares = [_failed_share(side) for side in (first, second)]
    if abs(shares[0] - shares[1]) > SHARE:
        yield Objection(
            "failures",
            f"{shares[0]:.0%} of the trials failed on one side and {shares[1]:.0%} on the other: those that answered "
            "are no like samples",
        )


def _failed_share(side: Side) -> float:
    planned = sum(run.trials["planned"] for run in side.runs)
    return sum(run.trials.get("failed", 0) for run in side.runs) / planned if planned else 0.0


def of_metric(first: Side, second: Side, metric: str, across: Collection[str] = ()) -> list[Objection]:
    """Return what speaks against one metric: it is missing, or its requests are not alike in state or length."""
    arm, column = values.split(metric)
    parts = [_answered(side, arm) for side in (first, second)]
    missing = [side.name for side, part in zip((first, second), parts, strict=True) if part.empty]
    if missing:
        return [Objection("compare_metric", f"{metric}: {missing[0]} has no answered request of arm {arm!r}")]
    found = [*_states(parts), *_lengths(parts, "prompt_tokens"), *_reused(parts)]
    if column in values.GENERATES:
        found += _lengths(parts, "completion_tokens")
    return [item for item in found if not _named(item.field, across)]


def _answered(side: Side, arm: str) -> pd.DataFrame:
    frame = side.requests
    frame = frame[frame["used"] & (frame["status"] == "ok")]
    return frame[[values.stem(name) == arm for name in frame["arm"]]]


def _states(parts: Sequence[pd.DataFrame]) -> Iterator[Objection]:
    shares = [part["cache_state"].astype(str).value_counts(normalize=True) for part in parts]
    apart = shares[0].sub(shares[1], fill_value=0.0).abs().sum() / 2
    if apart > SHARE:
        words = [
            ", ".join(f"{share:.0%} {state}" for state, share in side.sort_index().items()) for side in shares
        ]
        yield Objection("cache_state", f"{words[0]} on one side, {words[1]} on the other")


def _lengths(parts: Sequence[pd.DataFrame], column: str) -> Iterator[Objection]:
    means = [part.groupby("point")[column].mean().astype(float) for part in parts]
    both = pd.concat(means, axis=1, keys=["first", "second"]).dropna()
    off = both[(both["first"] - both["second"]).abs() > LENGTH * both.max(axis=1)]
    if len(off):
        row = off.iloc[0]
        what = "prompts" if column == "prompt_tokens" else "answers"
        yield Objection(
            column,
            f"{what} of point {off.index[0]} have {row['first']:.0f} against {row['second']:.0f} tokens",
        )


def _reused(parts: Sequence[pd.DataFrame]) -> Iterator[Objection]:
    """Of the same state the tokens read from the cache must be alike, too: a partial hit may be any part."""
    shares = []
    for part in parts:
        read = part["cached_tokens"].astype("Float64") / part["prompt_tokens"].astype("Float64")
        shares.append(None if read.isna().all() else float(read.mean()))
    a, b = shares
    if a is not None and b is not None and abs(a - b) > SHARE:
        yield Objection("cached_tokens", f"{a:.0%} of the prompt came from the cache against {b:.0%}")


def _short(value: object, limit: int = 60) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def weaknesses(first: Side, second: Side, metric: str) -> list[str]:
    """Return what does not forbid a comparison and weakens what it says, a sentence each."""
    arm, _ = values.split(metric)
    lines = []
    parts = [_answered(side, arm) for side in (first, second)]
    if all(
        not part.empty and (part["cache_state"].astype(str) == "unverified").mean() > SHARE for part in parts
    ):
        lines.append(
            "The cache states of both sides are unverified: what the caches held is not known to be alike."
        )
    busy = [float(part["machine_busy_share"].astype(float).mean()) for part in parts]  # NaN: nobody looked
    if any(share >= BUSY_SHARE for share in busy):
        words = ["an unknown share" if share != share else f"{share:.0%}" for share in busy]
        lines.append(
            f"Other work took {words[0]} of the machine on one side and {words[1]} on the other: the ratio may be the "
            "other work's."
        )
    machines = [side.first.stored["contract"].get("machine") for side in (first, second)]
    if machines[0] != machines[1]:
        lines.append("The machines differ: the ratio is of server and machine together.")
    endpoints = {str(run.stored["contract"].get("endpoint")) for side in (first, second) for run in side.runs}
    if _overlap(first, second) and len(endpoints) == 1 and machines[0] == machines[1]:
        lines.append("Both sides were measured at the same time: they may have slowed each other down.")
    if first.requests["used"].sum() != second.requests["used"].sum():
        lines.append("One side has more requests than the other: only what both have is paired.")
    return lines


def _overlap(first: Side, second: Side) -> bool:
    spans = [(side.requests["sent_utc"].min(), side.requests["sent_utc"].max()) for side in (first, second)]
    return bool(spans[0][0] <= spans[1][1] and spans[1][0] <= spans[0][1]) if all(map(all, spans)) else False
