"""What the replays cost: turns, trims, and the mean TTFT over whole cycles."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.experiments.context_limit_probe.analysis import Findings
from kvlab.experiments.context_limit_probe.replay import TRIM, interval_of
from kvlab.stats.means import mean_interval
from kvlab.stats.medians import median_interval
from kvlab.taxonomy import ErrorType

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams


def replays(frame: pd.DataFrame, found: Findings, params: "ContextLimitProbeParams") -> pd.DataFrame:
    """Return one row a compared interval.

    Columns: factor, interval (exchanges), turns, failed, trims, largest_tokens, turn_ttft_ms (median
    without trims), trim_ttft_ms (an `Interval` of the median), trim_cached_tokens and
    trim_computed_tokens (medians), mean_ttft_ms (an `Interval` of the mean over whole cycles, from the first
    trim to the last; no estimate: fewer than two trims), states (cache states of the trims).
    """
    rows = []
    for factor in sorted(params.interval_factors) if found.constants else []:
        part = frame[frame["used"] & (frame["trial_id"] == f"replay-{factor:.3f}")]
        if len(part):
            rows.append({"factor": factor, **_replay(part, interval_of(found.constants, factor), params)})
    return pd.DataFrame(rows)


def _replay(part: pd.DataFrame, interval: int, params: "ContextLimitProbeParams") -> dict[str, Any]:
    # An answer of nothing has no TTFT, but its prompt was read: the turn did not fail.
    was_read = (part["status"] == "ok") | (part["error_type"] == ErrorType.EMPTY_OUTPUT)
    good = part[was_read].sort_values("sent_ns")
    is_trim = good["arm"].str.startswith(TRIM)
    trims, turns = good[is_trim], good[~is_trim]
    # Whole cycles, from a trim up to the next: half a cycle would hide a trim, or count one too many.
    number = is_trim.cumsum()
    whole = good[(number > 0) & (number < len(trims))]
    cycles = [part["ttft_ms"].dropna().astype(float).tolist() for _, part in whole.groupby(number)]
    computed = trims["prompt_tokens"] - trims["cached_tokens"]
    return {
        "interval": interval,
        "turns": len(part),
        "failed": len(part) - len(good),
        "trims": len(trims),
        "largest_tokens": int(good["prompt_tokens"].max()) if good["prompt_tokens"].notna().any() else None,
        "turn_ttft_ms": _median(turns["ttft_ms"]),
        "trim_ttft_ms": median_interval(
            trims["ttft_ms"].dropna().astype(float).tolist(), confidence=params.confidence, unit="trims"
        ),
        "trim_cached_tokens": _median(trims["cached_tokens"]),
        "trim_computed_tokens": _median(computed),
        "mean_ttft_ms": mean_interval(cycles, seed=params.seed, confidence=params.confidence, unit="cycles"),
        "states": ", ".join(
            f"{n} {state}" for state, n in trims["cache_state"].value_counts().sort_index().items()
        ),
    }


def _median(values: "pd.Series[Any]") -> float | None:
    known = values.dropna().astype(float)
    return float(known.median()) if len(known) else None


def best_interval(table: pd.DataFrame) -> "pd.Series[Any] | None":
    """Return the row whose mean TTFT a turn is apart from all others' and below; ``None``: not told apart.

    Apart: its interval ends below where each other's begins. A row that failed, or whose cycles are too
    few for an interval, is apart from none.
    """
    if len(table) < 2 or table["failed"].any():
        return None
    means = list(table["mean_ttft_ms"])
    if any(mean.low is None or mean.high is None for mean in means):
        return None
    best = min(range(len(means)), key=lambda row: means[row].estimate)
    apart = all(means[best].high < mean.low for row, mean in enumerate(means) if row != best)
    return table.iloc[best] if apart else None


def cost_in_words(table: pd.DataFrame) -> str | None:
    """Return which interval costs least, or that they are not told apart; ``None``: fewer than two were replayed."""
    if len(table) < 2:
        return None
    if (best := best_interval(table)) is not None:
        return f"of the intervals, {best['interval']} costs least"
    return (
        f"of the intervals {', '.join(str(n) for n in table['interval'])}, what they cost is not told apart"
    )
