"""What share of the prefixes was still cached after each wait."""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
from scipy.stats import binomtest

from kvlab.evidence import CacheState
from kvlab.experiments.prefix_lifetime.params import LifetimeParams
from kvlab.findings import Check, Findings, Picture, Table
from kvlab.report import figures
from kvlab.runs.data import RunData
from kvlab.stats import Interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNITS = {"idle": "s idle", "foreign": "foreign tokens"}
_METHOD = "exact binomial (Clopper & Pearson 1934)"
_LIMITATIONS = (
    "A prefix goes when its room is needed: another cache size, or others who use the server, give another life.",
    "Nothing is said of waits beyond the longest one.",
)


class Survival(NamedTuple):
    """The prefixes of one wait.

    Attributes:
        by: ``idle`` or ``foreign``.
        amount: Seconds, or tokens.
        share: Full hits among the prefixes whose states are proven, with its interval.
        again: How many of those were a hit, partial or cold, by state.
        waited_s: Median of what was observed; ``None``: nothing was.
        passed_tokens: Likewise.
    """

    by: str
    amount: float
    share: Interval
    again: dict[str, int]
    waited_s: float | None
    passed_tokens: float | None

    @property
    def name(self) -> str:
        """The wait, in words."""
        return (
            f"{self.amount:,g} {_UNITS[self.by]}" if self.by == "idle" else f"{self.amount:,} foreign tokens"
        )

    @property
    def survived(self) -> str:
        """How many survived, in words."""
        return f"{self.again['hit']} of {self.share.n}"


def findings(data: RunData, params: LifetimeParams) -> Findings:
    """Return the survival by wait."""
    used = data.requests[data.requests["used"]]
    waits = survival(data, used, params)
    return Findings(
        headline=_headline(waits),
        checks=_checks(used, waits),
        results={
            "survival": {wait.name: wait.share.estimate for wait in waits},
            "survival_interval": {wait.name: wait.share.made_by for wait in waits},
            "all_survived_up_to": {by: _all_survived_up_to(waits, by) for by in _UNITS},
        },
        tables=[_table(waits)],
        pictures=[
            Picture(
                name="survival",
                title="Survival by wait",
                caption=f"The share of prefixes that were a full hit again. Bars: {_METHOD}, "
                f"{params.confidence:.0%}, n = {max(wait.share.n for wait in waits)} prefixes a wait at most.",
                draw=partial(_draw, waits),
            )
        ],
        limitations=_LIMITATIONS,
    )


def survival(data: RunData, used: pd.DataFrame, params: LifetimeParams) -> list[Survival]:
    """Return every planned wait, measured or not, idle ones first, in order of their length."""
    first, again = (
        used[used["arm"] == arm].set_index("trial_id")["cache_state"].to_dict() for arm in ("cold", "again")
    )
    found: dict[tuple[str, float], list[str]] = {}
    for trial, planned in zip(data.trials["trial_id"], data.trials["planned"], strict=True):
        found.setdefault((planned["by"], planned["amount"]), []).append(trial)
    waits = []
    for (by, amount), trials in sorted(found.items(), key=lambda item: (item[0][0] != "idle", item[0][1])):
        proven = [again[trial] for trial in trials if first.get(trial) == CacheState.COLD and trial in again]
        counts = {state: proven.count(state) for state in ("hit", "partial", "cold")}
        waits.append(
            Survival(
                by,
                amount,
                share(counts["hit"], sum(counts.values()), params.confidence),
                counts,
                _median(data, "waited_s", trials),
                _median(data, "foreign_tokens", trials),
            )
        )
    return waits


def share(survived: int, n: int, confidence: float) -> Interval:
    """Return a share of ``n`` prefixes with its exact binomial interval."""
    if n == 0:
        return Interval(None, None, None, 0, confidence, "no prefix has proven states", _METHOD, "prefixes")
    ends = binomtest(survived, n).proportion_ci(confidence, method="exact")
    return Interval(survived / n, float(ends.low), float(ends.high), n, confidence, None, _METHOD, "prefixes")


def _median(data: RunData, name: str, trials: list[str]) -> float | None:
    """Return the median of an observation over trials; of a trial that was begun twice the last one counts."""
    seen = data.table("observations")
    values = seen[(seen["name"] == name) & seen["trial_id"].isin(trials)].drop_duplicates(
        "trial_id", keep="last"
    )
    return float(values["value"].median()) if values["value"].notna().any() else None


def _all_survived_up_to(waits: list[Survival], by: str) -> float | None:
    """Return the longest wait up to which every prefix survived; ``None``: not even the shortest one's did."""
    longest = None
    for wait in waits:
        if wait.by == by:
            if wait.share.estimate != 1:
                break
            longest = wait.amount
    return longest


def _headline(waits: list[Survival]) -> str:
    parts = []
    for by in _UNITS:
        mine = [wait for wait in waits if wait.by == by and wait.share.n]
        lost = next((wait for wait in mine if wait.share.estimate != 1), None)
        if lost is not None:
            parts.append(f"after {lost.name} {lost.survived} stayed")
        elif mine:
            parts.append(f"up to {mine[-1].name} every prefix stayed")
    return "; ".join(parts) or "nothing was measured that shows how long a prefix stays"


def _checks(used: pd.DataFrame, waits: list[Survival]) -> list[Check]:
    fresh = used.loc[used["arm"] != "again", "cache_state"]
    again = used.loc[used["arm"] == "again", "cache_state"]
    cold, told = int((fresh == CacheState.COLD).sum()), int((again != CacheState.UNVERIFIED).sum())
    unknown = [wait.name for wait in waits if not wait.share.n]
    lost = [wait for wait in waits if wait.share.n and wait.share.estimate != 1]
    lowest = min((wait.share.low for wait in waits if wait.share.low is not None), default=None)
    return [
        Check(
            name="cold_proven",
            asks="every first and every foreign request is proven cold",
            seen=f"{cold} of {len(fresh)}",
            passed=cold == len(fresh) if len(fresh) else None,
            role="proof",
        ),
        Check(
            name="again_told",
            asks="the server says of every second request what it read from its cache",
            seen=f"{told} of {len(again)}",
            passed=told == len(again) if len(again) else None,
            role="proof",
        ),
        Check(
            name="all_survived",
            asks="every prefix is a full hit again, after every wait",
            seen="; ".join(f"{wait.name}: {wait.survived}" for wait in lost)
            or (
                f"nothing is known of {', '.join(unknown)}"
                if unknown
                else f"{sum(wait.share.n for wait in waits)} prefixes"
            ),
            passed=False if lost else None if unknown else True,
            role="criterion",
        ),
        Check(
            name="more_than_half",
            asks="the interval of every wait shows that more than half survive",
            seen="no interval" if lowest is None else f"at least {lowest:.0%} at every wait ({_METHOD})",
            passed=None if lowest is None else lowest > 0.5,
            role="note",
            advice="more repeats narrow it: six that all survive show more than half",
        ),
    ]


def _table(waits: list[Survival]) -> Table:
    columns = (
        "wait", "waited_s", "passed_tokens", "prefixes", "hit", "partial", "cold", "survival", "low", "high", "interval",
    )  # fmt: skip
    rows = [
        {
            "wait": wait.name,
            "waited_s": wait.waited_s,
            "passed_tokens": None if wait.passed_tokens is None else round(wait.passed_tokens),
            "prefixes": wait.share.n,
            **wait.again,
            "survival": wait.share.estimate,
            "low": wait.share.low,
            "high": wait.share.high,
            "interval": wait.share.made_by,
        }
        for wait in waits
    ]
    return Table(
        name="survival",
        title="What survived",
        rows=rows,
        columns=columns,
        digits={"waited_s": 2, "survival": 3, "low": 3, "high": 3},
        note="`waited_s` runs from the end of the cold answer to the second sending; `passed_tokens` is what the "
        "server counted of the foreign prompts in between. Both are medians.",
    )


def _draw(waits: list[Survival]) -> "Figure":
    figure, axes = figures.panels(1, 2, "Which prefixes stayed in the cache")
    for panel, (by, unit) in zip(axes, _UNITS.items(), strict=True):
        mine = [wait for wait in waits if wait.by == by and wait.share.n]
        middle = [wait.share.estimate or 0.0 for wait in mine]
        below = [y - (wait.share.low or 0.0) for y, wait in zip(middle, mine, strict=True)]
        above = [(wait.share.high or 0.0) - y for y, wait in zip(middle, mine, strict=True)]
        panel.errorbar(
            [wait.amount for wait in mine], middle, [below, above], fmt="o", color=figures.HIT, capsize=3
        )
        panel.set(xlabel=unit, ylabel="share of full hits", ylim=(-0.05, 1.05))
    return figure
