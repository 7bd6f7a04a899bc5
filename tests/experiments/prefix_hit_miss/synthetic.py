"""Frames of requests as `kvlab.store.frames.requests` gives them, with chosen times and cached tokens."""

import json

import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.evidence import CacheLaw, Evidence, classify
from kvlab.experiments import get
from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams
from kvlab.experiments.prefix_hit_miss.trials import Planned
from kvlab.store.frames import REQUEST_COLUMNS
from tests.experiments.stored import run_data, summary

EXPERIMENT = get("prefix_hit_miss")
BLOCK, QUESTION = 16, 20
IDENTITY = Identity(kind="vLLM offline", url="in-process", model="m", block_size=BLOCK)
STORED = {"created_utc": "2026-01-02T03:04:05+00:00"}
TTFT = {"hit": 50.0, "miss": 200.0, "miss_same_length": 500.0}
_INTEGERS = ("prompt_tokens", "completion_tokens", "cached_tokens", "predicted_cached_tokens", "repeat")
_FLOATS = ("ttft_ms", "latency_ms", "server_ttft_ms", "server_queue_ms", "server_prefill_ms")


def params(**changes):
    return PrefixHitMissParams(**{"sizes": [[64, 48]], "num_trials": 5, "max_output_tokens": 4, **changes})


def _ttft(item, times):
    if item.procedure == "as_written" and item.condition == "miss" and item.index > 1:
        return 40.0 + item.index / 10
    return times[item.condition] + item.index / 10


def _requests(item, times):
    """Yield arm's kind, prompt length, prefix, cached tokens, ttft and latency of each request of a trial."""
    both = item.size_a + item.size_b
    if item.condition == "warmup":
        yield "warmup", both, None, 0, None, 300.0
        return
    length = (item.size_b if item.condition == "miss" else both) + QUESTION
    prefix = both if item.condition == "hit" else None
    cached = both // BLOCK * BLOCK if prefix else 0
    if item.procedure == "as_written" and item.condition == "miss" and item.index > 1:
        cached = (length - 1) // BLOCK * BLOCK
    ttft = _ttft(item, times)
    if item.procedure == "verified":
        for kind in ("ttft", "throughput"):
            yield f"prime_{kind}", both, None, 0, None, 280.0
    yield "ttft", length, prefix, cached, ttft, ttft
    yield "throughput", length, prefix, cached, None, ttft + 100
    if item.procedure == "verified" and item.condition == "hit":
        yield "reference", length, None, 0, None, 600.0


def frame(chosen, times=TTFT, change=None):
    rows = []
    for trial in EXPERIMENT.plan(chosen, None).trials:
        item = Planned(**trial.planned)
        for kind, length, prefix, cached, ttft, latency in _requests(item, times):
            label = classify(Evidence(length, cached), CacheLaw.whole_blocks(BLOCK), prefix_tokens=prefix)
            row = dict.fromkeys(REQUEST_COLUMNS) | {
                "request_id": f"{trial.trial_id}/{kind}", "trial_id": trial.trial_id, "arm": f"{item.condition}/{kind}",
                "repeat": trial.repeat, "prompt_tokens": length, "completion_tokens": 1 if kind == "ttft" else 4,
                "cached_tokens": cached, "predicted_cached_tokens": label.predicted_tokens,
                "cache_state": str(label.state), "cache_reason": label.reason, "ttft_ms": ttft, "latency_ms": latency,
                "server_ttft_ms": None if ttft is None else ttft - 2, "server_queue_ms": 0.1,
                "server_prefill_ms": None if ttft is None else ttft - 3, "status": "ok", "used": True,
                "session_id": 1, "cache_reset": True if kind.startswith(("prime", "reference")) else None,
                "completion_token_ids": json.dumps([7, 8, 9, 10]),
            }  # fmt: skip
            rows.append(change(row) if change else row)
    found = pd.DataFrame(rows, columns=list(REQUEST_COLUMNS)).astype(dict.fromkeys(_INTEGERS, "Int64"))
    return found.astype({**dict.fromkeys(_FLOATS, "Float64"), "cache_reset": "boolean"})


def scattered(row):
    """Let a verified hit scatter a little, in no order: differences that are all equal have no interval."""
    if "verified.hit" not in row["trial_id"] or row["ttft_ms"] is None:
        return row
    return {**row, "ttft_ms": row["ttft_ms"] + 0.01 * ((4 * int(row["trial_id"][-2:])) % 7 - 3.5)}


def decided(chosen=None, **kwargs):
    """Judge a run of six trials, the fewest that an interval can be made of, whose times scatter."""
    return judge(chosen or params(num_trials=6), **{"change": scattered, **kwargs})


def data(chosen, identity=IDENTITY, found=None, **kwargs):
    """Return a run's data; ``found``: its requests, in place of those of `frame`."""
    requests = frame(chosen, **kwargs) if found is None else found
    made = run_data(requests, EXPERIMENT.plan(chosen, None), identity=identity)
    made.stored = STORED
    return made


def judge(chosen=None, identity=IDENTITY, **kwargs):
    chosen = chosen or params()
    return summary(EXPERIMENT, data(chosen, identity, **kwargs), chosen)
