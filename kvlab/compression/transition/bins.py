"""What each budget scored in each length bin."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kvlab.compression.transition.scores import FULL, Floats, Scores, Treatment
from kvlab.stats.percentiles import percentile
from kvlab.stats.scores import mean_interval, resampled_means

#: The columns of `bin_table`, the same whatever is missing.
BIN_COLUMNS = (
    "policy", "budget", "phase", "bin_idx", "n", "acc_mean", "acc_std", "acc_ci_low", "acc_ci_high",
    "acc_ci_reason", "f1_mean", "em_mean", "contains_mean", "fail_rate", "no_answer_rate", "latency_p50_ms",
    "latency_p95_ms", "latency_reason", "latency_source", "tokens_p50", "tokens_p95", "tokens_reason",
)  # fmt: skip

#: Phases that have a row in the table: the curve and the control that has budgets of its own.
_SHOWN = ("planned", "added", "control_random")

_NEEDED = (
    "policy", "budget", "phase", "bin_idx", "context_id", "failed", "outcome", "f1", "em", "contains", "latency_ms",
    "prompt_tokens", "completion_tokens",
)  # fmt: skip


def timings(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return the rows that latency is taken from, and their name: the timed pass, where there is one.

    Where budgets share a prefill, the latency of an ordinary answer is no budget's own.
    """
    timed = frame[frame["phase"] == "timed"]
    return (timed, "timed pass") if len(timed) else (frame[frame["phase"].isin(_SHOWN)], "answers")


def bin_table(
    frame: pd.DataFrame, *, metric: str, n_bins: int, confidence: float, seed: int, resamples: int
) -> pd.DataFrame:
    """Return one row per policy, budget and bin, the empty bins too: `BIN_COLUMNS`.

    - ``n``: answers asked for. ``acc_mean``: mean of the metric, a failed answer counting as 0;
      ``acc_std`` is the population's; the interval is over contexts
      (`kvlab.stats.scores`).
    - ``no_answer_rate``: share without an answer. ``fail_rate``: share without one or with a label of the
      failure taxonomy (a truncated answer has one, right or wrong).
    - Percentiles are refused, with the reason, below their floor; tokens are prompt and completion.

    Args:
        frame: The answers.
        metric: The column that is the score.
        n_bins: How many bins there are.
        confidence: Of the intervals.
        seed: Of the resampling.
        resamples: How many draws.
    """
    narrow = frame[
        [name for name in frame.columns if name in (*_NEEDED, metric)]
    ]  # texts are slow to carry along
    shown = narrow[narrow["phase"].isin(_SHOWN)]
    timed, source = timings(narrow)
    clocks = dict(iter(timed.groupby(["policy", "budget", "bin_idx"])))
    rows = []
    for _, group in shown.groupby(["policy", "budget", "phase"], sort=False):
        policy, budget, phase = group[["policy", "budget", "phase"]].iloc[0]
        for b in range(n_bins):
            cell = group[group["bin_idx"] == b]
            clock = cell if source == "answers" else clocks.get((policy, budget, b), cell.iloc[:0])
            rows.append(
                {"policy": policy, "budget": float(budget), "phase": phase, "bin_idx": b, "n": len(cell)}
                | _accuracy(cell, metric, confidence=confidence, seed=seed, resamples=resamples)
                | _percentiles(clock, cell, source)
            )
    table = pd.DataFrame(rows, columns=list(BIN_COLUMNS))
    return table.sort_values(
        ["policy", "budget", "bin_idx"], ascending=[True, False, True], kind="stable", ignore_index=True
    )


def _accuracy(
    cell: pd.DataFrame, metric: str, *, confidence: float, seed: int, resamples: int
) -> dict[str, Any]:
    if not len(cell):
        return {"acc_ci_reason": "empty bin"}
    failed = cell["failed"].astype(bool)
    scores = zeroed(cell, metric)
    clusters = pd.factorize(cell["context_id"].astype(str), sort=True)[0].astype(np.int64)
    found = mean_interval(scores, clusters, seed=seed, confidence=confidence, draws=resamples)
    known = scores[~np.isnan(scores)]
    return {
        "acc_mean": found.estimate,
        "acc_std": float(known.std()) if len(known) else None,
        "acc_ci_low": found.low,
        "acc_ci_high": found.high,
        "acc_ci_reason": found.reason,
        **{f"{name}_mean": _mean(zeroed(cell, name)) for name in ("f1", "em", "contains")},
        "fail_rate": float((failed | cell["outcome"].notna()).mean()),
        "no_answer_rate": float(failed.mean()),
    }


def zeroed(rows: pd.DataFrame, metric: str) -> Floats:
    """Return a metric's column with failed answers as 0; all NaN where there is no such column."""
    if metric not in rows.columns:
        return np.full(len(rows), np.nan)
    score = rows[metric].astype(float).mask(rows["failed"].astype(bool), 0.0)
    return np.asarray(score.to_numpy(dtype=float))


def column(rows: pd.DataFrame, name: str) -> Floats:
    """Return a column as floats, all NaN where there is none: telemetry may be missing."""
    if name not in rows.columns:
        return np.full(len(rows), np.nan)
    return np.asarray(pd.to_numeric(rows[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan))


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _percentiles(clock: pd.DataFrame, cell: pd.DataFrame, source: str) -> dict[str, Any]:
    latency, tokens = (
        column(clock, "latency_ms"),
        column(cell, "prompt_tokens") + column(cell, "completion_tokens"),
    )
    found: dict[str, Any] = {"latency_source": source}
    for name, unit, values in (("latency", "_ms", latency), ("tokens", "", tokens)):
        (p50, why50), (p95, why95) = percentile(values, 50), percentile(values, 95)
        found |= {f"{name}_p50{unit}": p50, f"{name}_p95{unit}": p95, f"{name}_reason": why50 or why95}
    return found


def worst_bin(
    scores: Scores,
    budget: float,
    *,
    n_bins: int,
    seed: int,
    resamples: int,
    treatment: Treatment = "zero",
) -> list[float | None]:
    """Return for each bin the share of resamples in which its drop at ``budget`` is the largest.

    Whole contexts are resampled over all bins; equal drops share the resample. ``None`` for an empty bin.
    """
    k = int(np.flatnonzero(scores.budgets == budget)[0])
    drops = scores.drops(treatment)[:, k]
    table = np.where(scores.bins[:, None] == np.arange(n_bins), drops[:, None], np.nan)
    there = ~np.isnan(table).all(axis=0)
    if not there.any() or budget == FULL:
        return [None] * n_bins
    means = resampled_means(table[:, there], scores.clusters, seed=seed, resamples=resamples)
    means = np.where(np.isnan(means), -np.inf, means)
    largest = np.isclose(means, means.max(axis=1, keepdims=True), rtol=0, atol=1e-12)
    shares = (largest / largest.sum(axis=1, keepdims=True)).mean(axis=0)
    filled = iter(shares)
    return [float(next(filled)) if here else None for here in there]


def curve(scores: Scores, treatment: Treatment = "zero") -> dict[float, float]:
    """Return the mean score by budget, what `refine.next_budget` takes; NaN where there is none."""
    means: Sequence[float] = _column_means(scores.filled(treatment)).tolist()
    return dict(zip(scores.budgets.tolist(), means, strict=True))


def _column_means(values: Floats) -> Floats:
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(there, values, 0.0).sum(axis=0) / there.sum(axis=0))
