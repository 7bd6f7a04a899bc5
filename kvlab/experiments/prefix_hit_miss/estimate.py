"""From the requests of a run to its trials, each with its evidence, and to what they say together."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.evidence import CacheState
from kvlab.experiments.prefix_hit_miss import trials
from kvlab.stats.intervals import Interval
from kvlab.stats.means import increase_interval
from kvlab.stats.medians import median_interval

if TYPE_CHECKING:
    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams

_VALUES = (
    "ttft_ms", "latency_ms", "prompt_tokens", "completion_tokens", "cached_tokens", "predicted_cached_tokens",
    "cache_state", "cache_reason", "cache_reset", "server_ttft_ms", "server_queue_ms", "server_prefill_ms",
    "session_id", "completion_token_ids",
)  # fmt: skip
_PRIMES = (f"{trials.PRIME}_{trials.TTFT}", f"{trials.PRIME}_{trials.THROUGHPUT}")
_KINDS = (trials.WARMUP, trials.TTFT, trials.THROUGHPUT, trials.REFERENCE, *_PRIMES)


def table_of(frame: pd.DataFrame, params: "PrefixHitMissParams") -> pd.DataFrame:
    """Return one row a planned trial, in the plan's order, measured or not.

    Columns: those of `trials.Planned` and ``trial_id``; for each request of a trial, ``<request>.<column
    of requests.csv>``; and, derived:

    - ``complete``: TTFT and throughput were both measured.
    - ``ttft_ms``, ``total_ms`` (the long generation), ``tokens_per_s`` (its tokens over ``total_ms``).
    - ``cached_fraction`` of the prompt whose TTFT was taken.
    - ``proven``: the states are what they are meant to be (`_proven`).
    - ``flagged``: meant as a miss, and tokens of it came from the cache.
    - ``counted``: complete, not discarded, and in the verified arm proven: what statistics are from.
    - ``agrees``: the tokens after the hit are those of the cold reference; missing where not compared.
    """
    planned = [trials.Planned(**trial.planned) for trial in trials.of(params)]
    table = pd.DataFrame([{"trial_id": item.trial_id, **asdict(item)} for item in planned])
    used = frame[frame["used"] & (frame["status"] == "ok")]
    kinds = used["arm"].astype(str).str.rpartition("/")[2] if len(used) else used["arm"]
    for kind in _KINDS:
        part = used[kinds == kind].set_index("trial_id")[list(_VALUES)].add_prefix(f"{kind}.")
        table = table.join(part, on="trial_id")
    table["ttft_ms"] = table["ttft.ttft_ms"].astype("Float64")
    table["total_ms"] = table["throughput.latency_ms"].astype("Float64")
    table["tokens_per_s"] = table["throughput.completion_tokens"].astype("Float64") / table["total_ms"] * 1e3
    table["complete"] = (table["ttft_ms"].notna() & table["total_ms"].notna()).astype(bool)
    cached, length = (
        table["ttft.cached_tokens"].astype("Float64"),
        table["ttft.prompt_tokens"].astype("Float64"),
    )
    table["cached_fraction"] = cached / length
    table["proven"] = table["complete"] & _proven(table)
    is_miss = table["condition"].isin([trials.MISS, trials.SAME_LENGTH])
    table["flagged"] = (is_miss & (cached > 0).fillna(False)).astype(bool)
    checked = table["proven"] | (table["procedure"] == trials.AS_WRITTEN)
    table["counted"] = table["complete"] & ~table["discarded"] & checked
    table["agrees"] = _agrees(table)
    return table


def _proven(table: pd.DataFrame) -> "pd.Series[bool]":
    """Whether both measurements read what their condition says.

    A hit reads the whole blocks of the primed [A, B], no more and no less; a miss reads nothing; and
    what prepared it read nothing either, so that the state is the preparation's and not an older one.
    """
    result = pd.Series(True, index=table.index)
    is_hit = table["condition"] == trials.HIT
    for kind in (trials.TTFT, trials.THROUGHPUT):
        state, cached = table[f"{kind}.cache_state"], table[f"{kind}.cached_tokens"].astype("Int64")
        exact = (cached == table[f"{kind}.predicted_cached_tokens"].astype("Int64")).fillna(False)
        empty = (cached == 0).fillna(False)
        as_meant = ((state == CacheState.HIT) & exact).where(is_hit, (state == CacheState.COLD) & empty)
        result &= as_meant.astype(bool)
    for prime in _PRIMES:
        untouched = (table[f"{prime}.cached_tokens"].astype("Int64") == 0).fillna(False)
        result &= untouched | (table["procedure"] == trials.AS_WRITTEN)
    return result.astype(bool)


def _agrees(table: pd.DataFrame) -> "pd.Series[Any]":
    after_hit, cold = table["throughput.completion_token_ids"], table["reference.completion_token_ids"]
    comparable = (
        table["proven"]
        & ~table["discarded"]
        & cold.notna()
        & (table["reference.cached_tokens"].astype("Int64") == 0).fillna(False)
    ).astype(bool)
    return (after_hit == cold).astype("boolean").where(comparable)


def leading_share(table: pd.DataFrame) -> float | None:
    """Return the mean share of leading tokens that are the same after a hit and cold; ``None``: not compared."""
    shares = []
    for row in table[table["agrees"].notna()].to_dict("records"):
        hit, cold = (
            json.loads(row[f"{kind}.completion_token_ids"]) for kind in (trials.THROUGHPUT, trials.REFERENCE)
        )
        same = next((i for i, (a, b) in enumerate(zip(hit, cold, strict=False)) if a != b), len(cold))
        shares.append(same / len(cold))
    return sum(shares) / len(shares) if shares else None


def of(
    table: pd.DataFrame, config: tuple[int, int], procedure: str, condition: str | None = None
) -> pd.DataFrame:
    """Return the trials of one (A, B), procedure and condition."""
    chosen = (
        (table["size_a"] == config[0]) & (table["size_b"] == config[1]) & (table["procedure"] == procedure)
    )
    return table[chosen if condition is None else chosen & (table["condition"] == condition)]


def values(table: pd.DataFrame, column: str = "ttft_ms") -> list[float]:
    """Return a column of the trials that count."""
    return [float(value) for value in table[table["counted"]][column].dropna()]


def warmup_ms(table: pd.DataFrame, config: tuple[int, int], procedure: str) -> float | None:
    """Return how long [A, B] took to go into the cache: once as written, a mean in the verified arm."""
    if procedure == trials.AS_WRITTEN:
        times = of(table, config, procedure, trials.WARMUP)[f"{trials.WARMUP}.latency_ms"].dropna()
    else:
        rows = of(table, config, procedure)
        rows = rows[rows["counted"]]
        times = pd.concat([rows[f"{prime}.latency_ms"] for prime in _PRIMES]).dropna()
    return float(times.astype(float).mean()) if len(times) else None


def pairs(table: pd.DataFrame, config: tuple[int, int], other: str) -> pd.DataFrame:
    """Return the verified hits of one (A, B) beside the ``other`` condition of the same index.

    Columns: ``hit`` and ``other``, both TTFT in ms.
    """
    chosen = {
        name: of(table, config, trials.VERIFIED, condition).query("counted").set_index("index")["ttft_ms"]
        for name, condition in (("hit", trials.HIT), ("other", other))
    }
    return pd.DataFrame(chosen).dropna().astype(float)


def difference_ms(
    table: pd.DataFrame, config: tuple[int, int], other: str, params: "PrefixHitMissParams"
) -> Interval:
    """Return the median over pairs of TTFT(``other``) - TTFT(hit), in ms; positive: the hit is faster.

    The verdict looks at every (A, B), so each interval is wide enough for all of them (Bonferroni).
    """
    found = pairs(table, config, other)
    confidence = 1 - (1 - params.confidence) / len(params.configs)
    return median_interval((found["other"] - found["hit"]).tolist(), confidence=confidence)


def degradation(
    table: pd.DataFrame,
    config: tuple[int, int],
    procedure: str,
    params: "PrefixHitMissParams",
    other: str = trials.MISS,
) -> Interval:
    """Return ``ttft_degradation_pct``: (mean TTFT(miss) - mean TTFT(hit)) / mean TTFT(hit) * 100.

    Positive: a miss takes longer. As written, hits and misses are resampled each on their own, as
    nothing pairs them; in the verified arm by pair.
    """
    if procedure == trials.VERIFIED:
        found = pairs(table, config, other)
        hit, miss = found["hit"].tolist(), found["other"].tolist()
    else:
        hit = values(of(table, config, procedure, trials.HIT))
        miss = values(of(table, config, procedure, other))
    return increase_interval(
        hit,
        miss,
        seed=params.seed,
        paired=procedure == trials.VERIFIED,
        confidence=params.confidence,
        unit="pairs" if procedure == trials.VERIFIED else "trials per arm",
    )
