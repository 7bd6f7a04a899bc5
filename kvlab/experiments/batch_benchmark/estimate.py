"""From the requests of a run to one row per trial: times, rates, tokens, savings, failures, memory."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.experiments.batch_benchmark import savings
from kvlab.experiments.batch_benchmark.data import Load
from kvlab.experiments.batch_benchmark.trials import Planned, trials
from kvlab.stats import steady
from kvlab.taxonomy import ErrorType
from kvlab.timing.request import STALL_SHARE

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

QUANTILES = (0.5, 0.9, 0.99)
#: A quantile needs so many values beyond it: no p99 from 30 requests.
VALUES_BEYOND = 5


def quantile(values: Any, q: float) -> float | None:  # noqa: ANN401 - a series or an array
    """Return a quantile; ``None`` where fewer than `VALUES_BEYOND` values lie beyond it."""
    known = np.asarray(values.dropna() if isinstance(values, pd.Series) else values, dtype=float)
    if len(known) * (1 - q) < VALUES_BEYOND - 1e-9:
        return None
    return float(np.quantile(known, q))


def cells(load: Load, params: "BatchBenchmarkParams", identity: Identity | None) -> list[dict[str, Any]]:
    """Return a row for each planned trial, in the plan's order.

    Keys: those of `Planned` and ``trial_id``; ``state`` (``complete``, ``incomplete``, ``not offered``),
    ``why``; counts ``answered`` (with a token), ``empty`` (without), ``served`` (both), ``failed``, ``sent_again``,
    ``errors`` (by label, final ones), ``attempt_errors``;
    ``total_s``, ``requests_per_s``, ``prompt_tokens``, ``completion_tokens``, ``completion_tokens_per_s``;
    quantiles ``ttft_ms``, ``itl_ms``, ``latency_ms``, ``send_lag_ms``, ``due_to_first_token_ms``, ``due_to_done_ms`` by q; ``steady`` (`steady.Steady`),
    ``steady_requests_per_s``; ``savings``, ``savings_source``, ``predicted_savings`` (at least), ``predicted_savings_at_most``,
    ``predicted_from`` (why that is rough or missing), ``template_share``; ``server_s`` and
    ``failure_s`` (request-seconds); ``preemptions``, ``evicted``; ``generator``; ``outage_s``; ``memory`` by series.
    """
    frame = load.requests
    groups = dict(list(frame.groupby("trial_id", sort=False))) if len(frame) else {}
    return [
        _cell(
            trial.trial_id,
            Planned(**trial.planned),
            groups.get(trial.trial_id, frame.iloc[:0]),
            load,
            params,
            identity,
        )
        for trial in trials(params)
    ]


def _cell(
    trial_id: str,
    item: Planned,
    rows: pd.DataFrame,
    load: Load,
    params: "BatchBenchmarkParams",
    identity: Identity | None,
) -> dict[str, Any]:
    stretches = load.stretches[load.stretches["trial_id"] == trial_id]
    final = rows[rows["used"]]
    ok = final[final["status"] == "ok"]
    served = final[(final["status"] == "ok") | (final["error_type"] == ErrorType.EMPTY_OUTPUT)]
    found: dict[str, Any] = {"trial_id": trial_id, **asdict(item), **_state(item, final, stretches)}
    found |= _counts(rows, final)
    found |= _rates(ok, served, _concurrency(item, params), _stood_still_s(stretches))
    for name in ("ttft_ms", "latency_ms", "send_lag_ms"):
        found[name] = {q: quantile(ok[name], q) for q in QUANTILES}
    found |= _from_due(rows, ok)
    gaps = load.itl_ms.get(trial_id, np.array([]))
    found["itl_ms"] = {q: quantile(gaps, q) for q in QUANTILES}
    found |= _savings(rows, ok, item, stretches, params, identity)
    found |= _time_split(rows, served)
    found["preemptions"] = savings.delta(stretches, savings.PREEMPTIONS)
    found["evicted"] = _evicted(ok, item, found["prefix_tokens"], identity)
    found["generator"] = next(
        (g for g in reversed(list(stretches["generator"])) if isinstance(g, Mapping)), None
    )
    found["outage_s"] = sum(
        (end - start) / 1e9
        for says in stretches["generator"]
        if isinstance(says, Mapping)
        for start, end in says["outages_ns"]
    )
    found["memory"] = _memory(load, trial_id)
    return found


def _concurrency(item: Planned, params: "BatchBenchmarkParams") -> int:
    """Return how many requests make a round: what a closed loop can have in flight; 1 in an open one."""
    if item.strategy == "concurrent_start":
        return min(item.size, params.concurrent_start_at_most)
    if params.mode != "closed":
        return 1
    places = [params.concurrency, params.max_connections or params.concurrency]
    if item.strategy == "conversation" and params.conversations is not None:
        places.append(params.conversations)
    return min(places)


def _state(item: Planned, final: pd.DataFrame, stretches: pd.DataFrame) -> dict[str, Any]:
    why = str(stretches["ended"].iloc[-1]) if len(stretches) else "not started"
    if why.startswith("not offered"):
        return {"state": "not offered", "why": why}
    if len(final) < item.size:
        return {"state": "incomplete", "why": f"{len(final)} of {item.size} requests; {why}"}
    return {"state": "complete", "why": ""}


def _counts(rows: pd.DataFrame, final: pd.DataFrame) -> dict[str, Any]:
    empty = final["error_type"] == ErrorType.EMPTY_OUTPUT  # the model's answer: the server has served it
    lost = final[(final["status"] == "failed") & ~empty]
    attempts = rows[(rows["status"] == "failed") & (rows["error_type"] != ErrorType.EMPTY_OUTPUT)]
    answered = int((final["status"] == "ok").sum())
    return {
        "answered": answered,
        "empty": int(empty.sum()),
        "served": answered + int(empty.sum()),
        "failed": len(lost),
        "sent_again": len(rows) - len(final),
        "errors": {str(k): int(v) for k, v in lost["error_type"].value_counts().sort_index().items()},
        "attempt_errors": {
            str(k): int(v) for k, v in attempts["error_type"].value_counts().sort_index().items()
        },
    }


def _stood_still_s(stretches: pd.DataFrame) -> float:
    """Return for how long the load generator did not run while requests were on their way."""
    said = [each for each in stretches["generator"] if isinstance(each, Mapping)]
    return sum(float(each.get("stalled_ms") or 0.0) for each in said) / 1e3


def _rates(
    ok: pd.DataFrame, served: pd.DataFrame, concurrency: int, stood_still_s: float = 0.0
) -> dict[str, Any]:
    state = steady.find(served, concurrency)
    took_s = state.total_s if state.total_s > 0 else None
    total = took_s
    if took_s and stood_still_s >= STALL_SHARE * took_s:
        why = f"this client stood still for {stood_still_s:.1f} of {took_s:.1f} s: the rate is its own"
        state, total = steady.Steady(None, None, took_s, state.windows.iloc[:0], why), None
    prompt, made = ok["prompt_tokens"].dropna().sum(), ok["completion_tokens"].dropna().sum()
    tau = float(state.windows["s_per_request"].mean()) if len(state.windows) else None
    return {
        "steady": state,
        "total_s": took_s,
        "requests_per_s": len(served) / total if total else None,
        "prompt_tokens": int(prompt) if ok["prompt_tokens"].notna().all() and len(ok) else None,
        "completion_tokens": int(made) if ok["completion_tokens"].notna().all() and len(ok) else None,
        "completion_tokens_per_s": float(made) / total
        if total and ok["completion_tokens"].notna().all()
        else None,
        "steady_requests_per_s": 1 / tau if tau else None,
    }


def _stuck(identity: Identity | None) -> str | None:
    counters = identity.facts.get("cached_counters") if identity is not None else None
    return counters.why if counters is not None and counters.holds is False else None


def _savings(
    rows: pd.DataFrame,
    ok: pd.DataFrame,
    item: Planned,
    stretches: pd.DataFrame,
    params: "BatchBenchmarkParams",
    identity: Identity | None,
) -> dict[str, Any]:
    proven = identity is not None and identity.can("cached_tokens")
    saved = (
        savings.measured(rows, stretches, proven, _stuck(identity))
        if len(rows)
        else savings.Saved(None, "nothing was measured")
    )
    state = next((s for s in stretches["state"] if isinstance(s, Mapping)), {})
    block = identity.block_size if identity else None
    conversations = params.conversations or params.concurrency
    expected = savings.predicted(ok, item, state, block, conversations, params.trim_interval)
    seen = identity is not None and identity.can("tokenizer")
    return {
        "savings": saved.share,
        "savings_source": saved.source,
        "predicted_savings": expected.least,
        "predicted_savings_at_most": expected.most,
        "predicted_from": expected.roughly,
        "template_share": savings.template_share(ok, block, seen),
        "prefix_tokens": state.get("prefix_tokens"),
    }


def _from_due(rows: pd.DataFrame, ok: pd.DataFrame) -> dict[str, Any]:
    """Return quantiles from when a request was first due to its first token and to its end.

    Counted from when it was sent, a request does not know how long it waited for a connection or
    another attempt (coordinated omission). An item's due time is that of its first attempt in the session
    that answered it: an interrupted trial's requests were not waited for.
    """
    due_ns = rows["sent_ns"].astype("Float64") - rows["send_lag_ms"].astype("Float64") * 1e6
    first_ns = due_ns.groupby([rows["item"], rows["session_id"]]).transform("min").reindex(ok.index)
    ends = {"due_to_first_token_ms": "first_token_ns", "due_to_done_ms": "done_ns"}
    waits = {name: (ok[end].astype("Float64") - first_ns) / 1e6 for name, end in ends.items()}
    waits["due_to_done_ms"] = waits["due_to_done_ms"].where(ok["latency_ms"].notna())  # an end that is late
    return {name: {q: quantile(wait, q) for q in QUANTILES} for name, wait in waits.items()}


def _time_split(rows: pd.DataFrame, served: pd.DataFrame) -> dict[str, Any]:
    """Split request-seconds into the server's work on what it answered, and what failures took.

    A request's failures took from its first sending to the last one: failed attempts, the waits between
    them, outages; and the last one's own time, where that failed, as far as it is known. Each session
    counts for itself: nobody waits for a request while nothing runs, and clocks begin anew with a machine.
    """
    ordered = rows.sort_values(["item", "session_id", "sent_ns"])
    groups = ordered.groupby(["item", "session_id"])["sent_ns"]
    waited_s = float((groups.max() - groups.min()).sum()) / 1e9
    last = ordered.drop_duplicates(["item", "session_id"], keep="last")
    lost = last[~last.index.isin(served.index)]
    known = served["latency_ms"].notna().all()  # not where this client stood still: a part is not the whole
    return {
        "server_s": float(served["latency_ms"].astype(float).sum()) / 1e3 if known else None,
        "failure_s": waited_s + float(lost["latency_ms"].dropna().astype(float).sum()) / 1e3,
    }


def _evicted(ok: pd.DataFrame, item: Planned, prefix: int | None, identity: Identity | None) -> int | None:
    """Return how many requests did not find the shared prefix although an answer had it before they were sent."""
    block = identity.block_size if identity else None
    if item.strategy not in ("shared_prefix", "concurrent_start") or prefix is None or block is None:
        return None
    if ok.empty or ok["cached_tokens"].isna().any():
        return None
    if ok["done_ns"].isna().all():
        return None  # no answer has a time, so none is known to have come before another was sent
    later = ok[ok["sent_ns"] > int(ok["done_ns"].min())]
    return int((later["cached_tokens"].astype(int) < prefix // block * block).sum())


def _memory(load: Load, trial_id: str) -> dict[str, dict[str, Any]]:
    """Return, by series, baseline, peak and end in bytes, and the rise within the trial as a share."""
    if load.windows.empty:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for _, row in load.windows[load.windows["name"] == trial_id].iterrows():
        inside = load.memory[
            (load.memory["series"] == row["series"])
            & load.memory["t_s"].between(row["start_s"], row["end_s"])
        ]
        total = inside["total_bytes"].dropna()
        found[str(row["series"])] = {
            "baseline_bytes": int(row["baseline_bytes"]),
            "peak_bytes": int(row["peak_bytes"]),
            "end_bytes": int(row["end_bytes"]),
            "total_bytes": int(total.iloc[-1]) if len(total) else None,
            "used_bytes": inside["used_bytes"].astype(float).tolist(),
        }
    return found


def trials_of(table: Sequence[Mapping[str, Any]], strategy: str) -> list[Mapping[str, Any]]:
    """Return the complete trials of a strategy."""
    return [cell for cell in table if cell["strategy"] == strategy and cell["state"] == "complete"]
