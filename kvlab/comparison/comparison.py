"""Two sides compared: the verdict of the metric that was named beforehand, and of the others, corrected for looking."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from kvlab.comparison import calibration, refusals, values
from kvlab.comparison.calibration import FalseAlarms
from kvlab.comparison.differences import Difference, differences
from kvlab.comparison.refusals import Objection
from kvlab.comparison.sides import Side
from kvlab.errors import InputError
from kvlab.stats.intervals import Interval
from kvlab.stats.ratios import Effect, Outcome, holm_levels, outcome

CONFIDENCE = 0.95
SEED = 1337
EXIT_CODES = {"faster": 0, "equivalent": 0, "slower": 3, "undecided": 4}
EXIT_REFUSED = 2
_DIGITS = 6
ONE_START = (
    "Each side is one start of its engine: the interval is over the pairs of these two starts. Another start may differ "
    "by more than it shows; `starts` in the profile, or several runs a side, tell by how much."
)


@dataclass(frozen=True)
class Named:
    """What was named before the run: the primary metric and the margin.

    Attributes:
        metric: ``<arm>.<column>``, such as ``hit.ttft_ms``.
        margin: Sides whose ratio lies within 1 / (1 + margin) and 1 + margin are equivalent.
        remark: What speaks against "before"; empty: nothing.
    """

    metric: str
    margin: float
    remark: str = ""


@dataclass(frozen=True)
class MetricResult:
    """What one metric says.

    Attributes:
        metric: Its name.
        outcome: The verdict; ``undecided`` where it cannot be compared (``reason``).
        effect: The ratio with its error.
        confidence: Of the interval that the verdict is from; of the others above the primary one's (Holm).
        first, second: Geometric means of either side, in the column's unit.
        reason: Why there is no interval; ``None``: there is one.
        given: The interval that the verdict is from, where it is not the effect's own.
    """

    metric: str
    outcome: Outcome
    effect: Effect
    confidence: float
    first: float | None
    second: float | None
    reason: str | None = None
    given: Interval | None = None

    @property
    def interval(self) -> Interval:
        """The ratio with the interval that the verdict is from."""
        return self.given or self.effect.interval(self.confidence)

    @property
    def low(self) -> float | None:
        """The lower end of the ratio's interval."""
        return self.interval.low

    @property
    def high(self) -> float | None:
        """The upper end."""
        return self.interval.high


@dataclass(frozen=True)
class Comparison:
    """Two sides compared; the second against the first.

    Attributes:
        first, second: The sides.
        named: The primary metric and the margin.
        primary: What that metric says; ``None``: refused.
        others: What the others say, corrected for looking at them.
        refused: Why the two may not be compared; empty: they may.
        weakened: What weakens what is said, a sentence each.
        differences: What differs between them.
        alarms: How often this comparison would call two equal sides different.
        pairs: The primary metric's pairs: trial_id, point, log_first, log_second.
        values: Its values on either side (`kvlab.comparison.values.table`).
        across: The differences that were asked to be compared.
    """

    first: Side
    second: Side
    named: Named
    primary: MetricResult | None
    others: Sequence[MetricResult] = ()
    refused: Sequence[Objection] = ()
    weakened: Sequence[str] = ()
    differences: Sequence[Difference] = ()
    alarms: FalseAlarms | None = None
    pairs: pd.DataFrame = field(default_factory=pd.DataFrame)
    values: tuple[pd.DataFrame, pd.DataFrame] = (pd.DataFrame(), pd.DataFrame())
    across: Sequence[str] = ()

    @property
    def verdict(self) -> Outcome | None:
        """``faster``, ``slower``, ``equivalent`` or ``undecided``: the second, against the first; ``None``: refused."""
        return None if self.primary is None else self.primary.outcome

    @property
    def exit_code(self) -> int:
        """0 faster or equivalent, 3 slower, 4 undecided, 2 not comparable."""
        return EXIT_REFUSED if self.verdict is None else EXIT_CODES[self.verdict]

    @property
    def starts(self) -> int:
        """Engine starts (where they are unknown: runs) of the side that has fewer."""
        return min(self.first.starts, self.second.starts)

    @property
    def more_pairs(self) -> int | None:
        """How many more pairs would decide it; 0: it is decided; ``None``: unknown."""
        if self.primary is None:
            return None
        if self.primary.given is not None:
            return 0 if self.verdict != "undecided" else _more_blocks(self.primary, self.named.margin)
        more = self.primary.effect.more_units(self.named.margin, self.primary.confidence)
        if more is None or not _over_starts(self.primary.effect):
            return more
        return more * max(
            1, len(self.values[0]) // self.first.starts
        )  # whole starts, of as many pairs as now

    @property
    def headline(self) -> str:
        """One sentence: what came out."""
        names = f"{self.second.title} against {self.first.title}"
        if self.primary is None:
            return f"not comparable: {self.refused[0]}"
        result, metric = self.primary, self.named.metric
        shown = ends(result.low, result.high)
        interval = f" {shown}" if shown else ""
        ratio = "no ratio" if result.effect.ratio is None else f"ratio {result.effect.ratio:.3f}{interval}"
        words = {
            "faster": f"{names} is faster: {metric} {ratio}",
            "slower": f"{names} is slower: {metric} {ratio}",
            "equivalent": f"{names} is equivalent within {self.named.margin:.0%}: {metric} {ratio}",
            "undecided": f"{names} is undecided: {metric} {ratio}{self._needs()}",
        }
        return words[result.outcome]

    def _needs(self) -> str:
        more = self.more_pairs
        reason = "" if self.primary is None or self.primary.reason is None else f" ({self.primary.reason})"
        if not more:
            return reason
        if self.primary is not None and self.primary.interval.low is None and self.primary.given is None:
            return f"{reason}; at least {more:,} more pairs are needed for an interval"
        return f"{reason}; about {more:,} more pairs would decide it"

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``compare.json``."""
        result = self.primary
        low, high = (None, None) if result is None else (result.low, result.high)
        return {
            "verdict": self.verdict,
            "metric": self.named.metric,
            "ratio": None if result is None else _round(result.effect.ratio),
            "low": _round(low),
            "high": _round(high),
            "confidence": None if result is None else result.confidence,
            "method": None if result is None else result.effect.method,
            "pairs": 0 if result is None else self._units(),
            "starts": self.starts,
            "margin": self.named.margin,
            "false_alarm_rate": None if self.alarms is None else _round(self.alarms.rate),
            "more_pairs_needed": self.more_pairs,
            "refused_because": "; ".join(str(item) for item in self.refused) or None,
        }

    def _units(self) -> int:
        return len(self.pairs) or min(len(part) for part in self.values)

    def _repr_html_(self) -> str:
        from kvlab.comparison import page  # only where it is shown

        return page.badge(self)

    def __repr__(self) -> str:
        return f"<{self.headline}>"


def _round(value: float | None) -> float | None:
    """Return a number as it is written: six significant digits, the same on every machine."""
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def ends(low: float | None, high: float | None) -> str:
    """Return an interval as it is shown, an open end as dots; empty: there is none."""
    if low is None and high is None:
        return ""
    return f"[{'…' if low is None else f'{low:.3f}'}, {'…' if high is None else f'{high:.3f}'}]"


def _more_blocks(result: MetricResult, margin: float) -> int | None:
    """Return about how many more blocks an interval that may be looked at needs: its width falls as their root grows."""
    found = result.interval
    if found.low is None or found.high is None or found.estimate is None or found.low <= 0:
        return None
    half, size = math.log(found.high / found.low) / 2, abs(math.log(found.estimate))
    enough = max(size, math.log1p(margin) - size)
    return max(1, math.ceil(found.n * (half / enough) ** 2) - found.n)


def _over_starts(effect: Effect) -> bool:
    return effect.unit.startswith(("starts", "runs"))


def compare(
    first: Side,
    second: Side,
    *,
    read_params: Callable[[Mapping[str, Any]], Any],
    metric: str | None = None,
    margin: float | None = None,
    across: Collection[str] = (),
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compare two sides.

    Args:
        first: What the second is compared with.
        second: The other.
        read_params: From what a run has stored of itself to its checked parameters.
        metric: In place of the one that was named before the run; the result says so.
        margin: In place of the one that was named before the run.
        across: Fields whose difference is what is compared; they forbid nothing.
        confidence: Of the primary metric's interval.

    Raises:
        InputError: Both are the same runs, or the metric or the margin is none.
    """
    if {run.origin for run in first.runs} & {run.origin for run in second.runs}:
        raise InputError("compare", second.name, "is on both sides (or a copy of it is); name two runs")
    named, disagree = _named(first, second, read_params, metric, margin)
    found = refusals.objections(first, second, named.metric, across)
    found = found[:1] if found and found[0].field == "experiment" else [*disagree, *found]
    differ = differences(first, second)
    if found:
        return Comparison(
            first, second, named, None, refused=found, differences=differ, across=sorted(across)
        )
    tables = values.table(first), values.table(second)
    own = _of(tables, named.metric)
    primary = _result(named.metric, own, _units_of(first, second), confidence, named.margin)
    remarks = [named.remark] if named.remark else []
    weak = [*remarks, *refusals.weaknesses(first, second, named.metric)]
    if not _over_starts(primary.effect):
        weak.append(ONE_START)
    elif not (first.starts_known and second.starts_known):
        weak.append("Each run counts as a start of the engine; whether it was one, the runs do not say.")
    return Comparison(
        first,
        second,
        named,
        primary,
        others=_others((first, second), tables, named, across, confidence),
        weakened=weak,
        differences=differ,
        alarms=calibration.permuted(*own, named.margin, confidence, seed=SEED),
        pairs=values.pairs(*own),
        values=own,
        across=sorted(across),
    )


def _named(
    first: Side,
    second: Side,
    read_params: Callable[[Mapping[str, Any]], Any],
    metric: str | None,
    margin: float | None,
) -> tuple[Named, list[Objection]]:
    """Return what was named before the runs, and where they do not agree on it."""
    runs = [*first.runs, *second.runs]
    params = [read_params(run.stored) for run in runs]
    disagree, chosen, late = [], {}, []
    for name, given in (("compare_metric", metric), ("compare_margin", margin)):
        stored = list(dict.fromkeys(getattr(item, name) for item in params))
        chosen[name] = stored[0] if given is None else given
        if given is None and len(stored) > 1:
            disagree.append(
                Objection(name, f"the runs have named {' and '.join(map(str, stored))}; give one")
            )
        if given is not None and stored != [given]:
            late.append(f"{name} {given} (the runs have named {stored[0]})")
        elif given is None and any(name not in run.stored["params"] for run in runs):
            late.append(f"{name} {stored[0]} (the experiment's default; the runs have stored none)")
    margin_given = float(chosen["compare_margin"])
    if not 0 < margin_given < 1:
        raise InputError("--margin", margin_given, "must lie between 0 and 1, such as 0.05")
    text = str(chosen["compare_metric"])
    if values.split(text)[1] not in (*values.COLUMNS, values.RATE) or not values.split(text)[0]:
        known = ", ".join((*values.COLUMNS, values.RATE))
        raise InputError("--metric", text, f"must be ARM.COLUMN, such as hit.ttft_ms; columns: {known}")
    remark = f"Named after the measuring, not before: {'; '.join(late)}." if late else ""
    return Named(text, margin_given, remark), disagree


def _of(tables: tuple[pd.DataFrame, pd.DataFrame], metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    first, second = (found[found["metric"] == metric].reset_index(drop=True) for found in tables)
    return first, second


def _units_of(first: Side, second: Side) -> str:
    return "starts" if first.starts_known and second.starts_known else "runs"


def _result(
    metric: str, own: tuple[pd.DataFrame, pd.DataFrame], units: str, confidence: float, margin: float
) -> MetricResult:
    effect = values.effect(*own, units)
    means = [_geometric_mean(part) for part in own]
    return MetricResult(
        metric,
        outcome(effect.interval(confidence), margin),
        effect,
        confidence,
        means[0],
        means[1],
        effect.reason,
    )


def _geometric_mean(part: pd.DataFrame) -> float | None:
    return math.exp(float(part["log"].mean())) if len(part) else None


def _others(
    sides: tuple[Side, Side],
    tables: tuple[pd.DataFrame, pd.DataFrame],
    named: Named,
    across: Collection[str],
    confidence: float,
) -> list[MetricResult]:
    """Return all metrics but the primary one; those that may be compared are judged at Holm's levels."""
    units = _units_of(*sides)
    may: list[MetricResult] = []
    others: list[MetricResult] = []
    for metric in values.names(*tables):
        if metric == named.metric:
            continue
        result = _result(metric, _of(tables, metric), units, confidence, named.margin)
        against = refusals.of_metric(*sides, metric, across)
        if against:
            why = f"not comparable: {against[0].field}: {against[0].why}"
            nothing = replace(result.effect, log_ratio=None, error=None, reason=why)
            others.append(replace(result, effect=nothing, outcome="undecided", reason=why))
        else:
            (others if result.effect.error is None else may).append(result)
    levels = holm_levels([item.effect.p_value(named.margin) for item in may], 1 - confidence)
    judged = [
        replace(item, outcome=outcome(item.effect.interval(1 - level), named.margin), confidence=1 - level)
        for item, level in zip(may, levels, strict=True)
    ]
    return sorted([*judged, *others], key=lambda item: item.metric)
