"""The trimming check: a long conversation under the recommended constants, turn by turn.

After each answer the history grows by the scripted exchange, whatever the model said, so that all
intervals are measured on the same conversation. Every ``interval`` exchanges, or when the next
prompt would exceed CONTEXT_TRIM_THRESHOLD, everything but the system message and the last
KEEP_MESSAGES messages is dropped. What follows the system message is then at another place than in
the cache: it is computed anew, and the cached tokens show that. What an interval costs is the mean
TTFT over whole cycles.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from kvlab.experiment import Measuring
from kvlab.experiments.context_limit_probe import material
from kvlab.experiments.context_limit_probe.bench import Bench
from kvlab.experiments.context_limit_probe.estimate import Constant, estimate, value
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.probe import generated
from kvlab.prompts import manual
from kvlab.records import Trial
from kvlab.stats.means import mean_interval
from kvlab.stats.medians import median_interval
from kvlab.taxonomy import RETRYABLE, ErrorType
from kvlab.timing.request import Failure

TURN, TRIM = "turn", "trim"


def replay(bench: Bench, trial: Trial) -> Measuring:
    """Replay one conversation at one interval, up to its end or its first failure."""
    params, constants = bench.params, estimate(bench.ledger.probes(), bench.params).constants
    if not constants:
        return "not needed"
    bench.tries[trial.trial_id] += 1
    began = bench.first_tries.setdefault(trial.trial_id, time.monotonic())
    interval = interval_of(constants, float(trial.planned["factor"]))
    keep, threshold = value(constants, "KEEP_MESSAGES"), value(constants, "CONTEXT_TRIM_THRESHOLD")
    mark = manual.marker(bench.session.run.isolation_id, bench.session.tag(trial))
    head = material.system(mark, params.needles, params.text_seed)
    messages, since, trims = list[material.Message](), 0, 0
    for turn in range(1, params.replay_exchanges + 1):
        ask, reply = material.exchange(params.growth, params.text_seed, turn - 1)
        prompt = bench.prompt([head, *messages, ask])
        trimmed = len(messages) > keep and (since >= interval or bench.length(prompt) > threshold)
        if trimmed:
            messages, since, trims = messages[-keep:], 0, trims + 1
            prompt = bench.prompt([head, *messages, ask])
        arm = f"{TRIM if trimmed else TURN}-{turn:05d}"
        row = bench.ask(trial, arm, prompt, params.replay_tokens, bench.length(prompt))
        failure = row.measurement.failure
        if row.was_read and generated(row):
            failure = None  # an answer whose tokens have no text
        if failure is not None:
            final = _is_final(failure, bench.tries[trial.trial_id], time.monotonic() - began, params)
            yield replace(row, expected=row.expected or final)
            return f"{turn} turns, {trims} trims: {failure.message[:120]}"
        yield row
        messages, since = [*messages, ask, reply], since + 1
        if turn % 25 == 0:
            bench.session.note(f"{trial.trial_id}: {turn} of {params.replay_exchanges} turns")
    return f"{params.replay_exchanges} turns, {trims} trims"


def _is_final(failure: Failure, tries: int, waited_s: float, params: ContextLimitProbeParams) -> bool:
    """Whether a failed turn is the replay's result: no other attempt would help, or none is left."""
    if failure.error_type not in RETRYABLE:
        return True
    return tries >= params.max_attempts and not (failure.is_outage and waited_s < params.outage_s)


def interval_of(constants: Sequence[Constant], factor: float) -> int:
    """Return the interval that a replay keeps, in exchanges."""
    return max(1, round(factor * value(constants, "TRIM_INTERVAL")))


def replays(
    frame: pd.DataFrame,
    constants: Sequence[Constant],
    params: ContextLimitProbeParams,
    *,
    counts_all: bool = True,
) -> pd.DataFrame:
    """Return one row per compared interval.

    Columns: factor, interval (exchanges), turns, failed, trims, largest_tokens, turn_ttft_ms (median
    without trims), trim_ttft_ms (an `Interval` of the median), trim_cached_tokens and
    trim_computed_tokens (medians), mean_ttft_ms (an `Interval` of the mean over whole cycles, from the first
    trim to the last; no estimate: fewer than two trims), states (cache states of the trims).
    """
    rows = []
    for factor in sorted(params.interval_factors) if constants else []:
        part = frame[frame["used"] & (frame["trial_id"] == f"replay-{factor:.3f}")]
        if not counts_all:  # then what it counts is no length
            part = part.assign(
                prompt_tokens=part["target_tokens"],
                cached_tokens=pd.Series(pd.NA, index=part.index, dtype="Int64"),
            )
        if len(part):
            rows.append({"factor": factor, **_replay(part, interval_of(constants, factor), params)})
    return pd.DataFrame(rows)


def _replay(part: pd.DataFrame, interval: int, params: ContextLimitProbeParams) -> dict[str, Any]:
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
    """Return the row whose mean TTFT per turn lies clearly below all others; ``None``: none does.

    Clearly: its interval ends below the beginning of every other one. After a failure, or with too few
    cycles for an interval, none does.
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
    """Return which interval costs least, or that their costs do not differ measurably; ``None``: fewer than two were replayed."""
    if len(table) < 2:
        return None
    if (best := best_interval(table)) is not None:
        return f"of the intervals, {best['interval']} costs least"
    return (
        f"the costs of the intervals {', '.join(str(n) for n in table['interval'])} do not differ measurably"
    )
