"""The result files of the experiment as it was first written, key for key.

``results_phase2_a{A}_b{B}.json`` holds the as-written arm. ``results_phase2_verified_a{A}_b{B}.json``
has the same keys for the verified one, and ``cache_evidence``. Times are in milliseconds, throughput
in generated tokens per second over the whole generation. What cannot be said (the spread of a single
trial) is ``null``.
"""

import json
import statistics
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.experiments.prefix_hit_miss import estimate, trials
from kvlab.findings import File, plain

if TYPE_CHECKING:
    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams

PHASES = {trials.AS_WRITTEN: "phase2_python_api", trials.VERIFIED: "phase2_verified"}
_STEMS = {trials.AS_WRITTEN: "results_phase2", trials.VERIFIED: "results_phase2_verified"}


def files(
    table: pd.DataFrame, params: "PrefixHitMissParams", stored: Mapping[str, Any], identity: Identity | None
) -> dict[str, File]:
    """Return the files of a run by name: one JSON per (A, B) and arm, and one picture per arm.

    An (A, B) of which a hit or a miss is missing altogether has no file.
    """
    from kvlab.experiments.prefix_hit_miss import plots

    made: dict[str, File] = {}
    found: dict[str, dict[tuple[int, int], dict[str, Any]]] = {}
    for procedure in sorted(params.procedures):
        for config in params.configs:
            result = results(table, config, procedure, params, stored, identity)
            if result is None:
                continue
            file = f"{_STEMS[procedure]}_a{config[0]}_b{config[1]}.json"
            made[file] = json.dumps(result, indent=2, allow_nan=False) + "\n"
            found.setdefault(plots.phase_key(file), {})[config] = result
    for key, configs in found.items():
        made[plots.picture_name(key)] = partial(plots.picture, configs, plots.label(key, configs))
    return made


def results(
    table: pd.DataFrame,
    config: tuple[int, int],
    procedure: str,
    params: "PrefixHitMissParams",
    stored: Mapping[str, Any],
    identity: Identity | None,
) -> dict[str, Any] | None:
    """Return the content of one file; ``None`` where no hit or no miss was measured."""
    hit, miss = (_condition(table, config, procedure, condition) for condition in (trials.HIT, trials.MISS))
    if hit is None or miss is None:
        return None
    warmup = estimate.warmup_ms(table, config, procedure)
    faster, slower = hit["stats"]["ttft_mean"], miss["stats"]["ttft_mean"]
    content = {
        "phase": PHASES[procedure],
        "model": identity.model if identity else None,
        "timestamp": stored["created_utc"],
        "config": {
            "context_size_a": config[0],
            "context_size_b": config[1],
            "max_output_tokens": params.max_output_tokens,
            "num_trials": params.num_trials,
            "warmup_trials": params.warmup_trials,
        },
        "warmup_time_ms": warmup,
        "cache_hit": hit,
        "cache_miss": miss,
        "ttft_degradation_pct": (slower - faster) / faster * 100,
    }
    if procedure == trials.VERIFIED:
        content["cache_evidence"] = _evidence(table, config, params, identity)
    rounded: dict[str, Any] = plain(content, 3)
    return rounded


def _condition(
    table: pd.DataFrame, config: tuple[int, int], procedure: str, condition: str
) -> dict[str, Any] | None:
    rows = estimate.of(table, config, procedure, condition)
    rows = rows[rows["counted"]]
    if not len(rows):
        return None
    ttft, total, speed = (estimate.values(rows, name) for name in ("ttft_ms", "total_ms", "tokens_per_s"))
    return {
        "trials": [_trial(row) for row in rows.to_dict("records")],
        "stats": {
            "ttft_mean": statistics.fmean(ttft),
            "ttft_median": statistics.median(ttft),
            "ttft_stdev": _stdev(ttft),
            "total_time_mean": statistics.fmean(total),
            "total_time_stdev": _stdev(total),
            "throughput_mean": statistics.fmean(speed),
            "throughput_stdev": _stdev(speed),
            "prompt_tokens": int(rows["ttft.prompt_tokens"].iloc[0]),
        },
    }


def _trial(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "ttft_ms": row["ttft_ms"],
        "total_time_ms": row["total_ms"],
        "throughput_tokens_per_s": row["tokens_per_s"],
        "prompt_tokens": int(row["ttft.prompt_tokens"]),
        "output_tokens": int(row["throughput.completion_tokens"]),
        "cached_tokens": row["ttft.cached_tokens"],
        "throughput_cached_tokens": row["throughput.cached_tokens"],
    }


def _evidence(
    table: pd.DataFrame, config: tuple[int, int], params: "PrefixHitMissParams", identity: Identity | None
) -> dict[str, Any]:
    """Return what shows the states of the verified arm, and its miss of the same length."""
    rows = estimate.of(table, config, trials.VERIFIED)
    rows = rows[~rows["discarded"]]
    compared = rows["agrees"].dropna()
    resets = pd.concat(
        [rows[f"{trials.PRIME}_{kind}.cache_reset"] for kind in (trials.TTFT, trials.THROUGHPUT)]
    ).dropna()
    hits = rows[(rows["condition"] == trials.HIT) & rows["complete"]]
    same_length = estimate.degradation(table, config, trials.VERIFIED, params, trials.SAME_LENGTH)
    return {
        "source": "num_cached_tokens of each request, and the engine's counters over it",
        "block_size": identity.block_size if identity else None,
        "predicted_cached_tokens_of_a_hit": hits["ttft.predicted_cached_tokens"].iloc[0]
        if len(hits)
        else None,
        "cached_tokens": {
            condition: [
                int(value) for value in rows[rows["condition"] == condition]["ttft.cached_tokens"].dropna()
            ]
            for condition in trials.CONDITIONS[trials.VERIFIED]
        },
        "trials_planned": len(rows),
        "trials_proven": int(rows["proven"].sum()),
        "resets_asked": len(resets),
        "resets_confirmed": int(resets.astype(bool).sum()),
        "cache_miss_same_length": _condition(table, config, trials.VERIFIED, trials.SAME_LENGTH),
        "ttft_degradation_same_length_pct": same_length.estimate,
        "greedy_compared": len(compared),
        "greedy_equal": int(compared.sum()),
    }


def _stdev(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None
