"""What an answer costs at each budget: tokens, time, memory, money."""

from typing import Any

import numpy as np
import pandas as pd

from kvlab.compression.transition.bins import column, timings
from kvlab.compression.transition.scores import Floats
from kvlab.stats.percentiles import percentile

COLUMNS = (
    "policy", "budget", "n", "prompt_tokens_mean", "completion_tokens_mean", "cache_bytes_mean",
    "peak_memory_bytes_max", "timed_n", "latency_p50_ms", "ttft_p50_ms", "tokens_per_s_of_latency",
    "answers_per_min_of_latency", "cost_per_1000_answers",
)  # fmt: skip


def profile(
    frame: pd.DataFrame,
    *,
    price_per_million_prompt_tokens: float | None = None,
    price_per_million_completion_tokens: float | None = None,
) -> pd.DataFrame:
    """Return one row per policy and budget, descending: `COLUMNS`; ``None`` (NaN) where nothing was measured.

    Tokens and cache are those of the answers, times and peak memory those of the timed pass where there
    is one. ``timed_n`` is the number of latencies; a median of too few is refused, as in the bins.
    ``…_of_latency`` is completion tokens (answers) over the sum of the latencies: how fast one answer
    comes after another, without the pauses and retries that a session has. The cost is in the unit of
    the prices, and needs both.
    """
    answers = frame[frame["phase"].isin(("planned", "added", "control_random", "timed"))]
    clock, _ = timings(frame)
    rows = []
    for _, group in answers.groupby(["policy", "budget"], sort=False):
        policy, budget = group[["policy", "budget"]].iloc[0]
        timed = clock[(clock["policy"] == policy) & (clock["budget"] == budget)]
        curve = group[group["phase"] != "timed"]
        prompt, completion = (_mean(column(curve, name)) for name in ("prompt_tokens", "completion_tokens"))
        rows.append(
            {
                "policy": policy,
                "budget": float(budget),
                "n": len(curve),
                "prompt_tokens_mean": prompt,
                "completion_tokens_mean": completion,
                "cache_bytes_mean": _mean(column(curve, "cache_bytes")),
                "peak_memory_bytes_max": _of(np.max, column(timed, "peak_memory_bytes")),
                "timed_n": int((~np.isnan(column(timed, "latency_ms"))).sum()),
                "latency_p50_ms": percentile(column(timed, "latency_ms"), 50)[0],
                "ttft_p50_ms": percentile(column(timed, "ttft_ms"), 50)[0],
                **_throughput(column(timed, "latency_ms"), column(timed, "completion_tokens")),
                "cost_per_1000_answers": _cost(
                    prompt, completion, price_per_million_prompt_tokens, price_per_million_completion_tokens
                ),
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.sort_values(["policy", "budget"], ascending=[True, False], kind="stable", ignore_index=True)


def _of(what: Any, values: Floats) -> float | None:  # noqa: ANN401 - a function of an array
    known = values[~np.isnan(values)]
    return float(what(known)) if len(known) else None


def _mean(values: Floats) -> float | None:
    return _of(np.mean, values)


def _throughput(latency_ms: Floats, tokens: Floats) -> dict[str, float | None]:
    both = ~np.isnan(latency_ms) & ~np.isnan(tokens)
    seconds = float(latency_ms[both].sum()) / 1e3
    if seconds <= 0:
        return {"tokens_per_s_of_latency": None, "answers_per_min_of_latency": None}
    return {
        "tokens_per_s_of_latency": float(tokens[both].sum()) / seconds,
        "answers_per_min_of_latency": int(both.sum()) / seconds * 60,
    }


def _cost(
    prompt: float | None, completion: float | None, price_prompt: float | None, price_completion: float | None
) -> float | None:
    if prompt is None or completion is None or price_prompt is None or price_completion is None:
        return None
    return (prompt * price_prompt + completion * price_completion) / 1e6 * 1000
