"""``context_limit_results.json`` and the constants, ready to be pasted."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.escape import comment, env_value, python_literal
from kvlab.experiments.context_limit_probe.estimate import Constant, Estimate, Line
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, Probe
from kvlab.experiments.context_limit_probe.memory import Memory
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams

GB, MB = 1e9, 1e6


def files(
    frame: pd.DataFrame,
    found: Estimate,
    memory: Memory,
    params: ContextLimitProbeParams,
    stored: Mapping[str, Any],
    identity: Identity | None,
) -> dict[str, str | bytes]:
    """Return the files by name; the pasteable ones only where there is something to paste."""
    content = results(frame, found, memory, params, stored, identity)
    made: dict[str, str | bytes] = {
        "context_limit_results.json": json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        + "\n"
    }
    if found.constants:
        model = identity.model if identity else "unknown"
        measured = comment(f"Measured by kvlab on {stored['created_utc']} for {model}.")
        head = f"# {measured}\n"
        made["recommended.env"] = head + as_env(found.constants)
        made["recommended.py"] = head + as_python(found.constants)
    return made


def as_env(constants: Sequence[Constant]) -> str:
    """Return lines for an ``.env`` file, each below its rule."""
    return "".join(f"# {comment(item.rule)}\n{item.name}={env_value(item.value)}\n" for item in constants)


def as_python(constants: Sequence[Constant]) -> str:
    """Return lines of Python, each below its rule."""
    return "".join(
        f"# {comment(item.rule)}\n{item.name} = {python_literal(item.value)}\n" for item in constants
    )


def results(
    frame: pd.DataFrame,
    found: Estimate,
    memory: Memory,
    params: ContextLimitProbeParams,
    stored: Mapping[str, Any],
    identity: Identity | None,
) -> dict[str, Any]:
    """Return the content of ``context_limit_results.json``; ``None`` where something was not measured."""
    line = next((line for _, line in found.children.values() if line is not None), None)
    dtype = next((name for name, (_, line) in found.children.items() if line is not None), None)
    tested = [_test(frame, probe, memory) for probe in found.probes if probe.target == ENDPOINT]
    exchanges, exchanges_tokens = max(
        ((test["exchanges"], test["tokens"]) for test in tested if test["success"] and test["exchanges"]),
        default=(None, None),
    )
    return {
        "date": stored["created_utc"],
        "model": identity.model if identity else None,
        "engine": identity.kind if identity else None,
        "test_sizes": params.exchanges,
        "tests": tested,
        "maximum_tested_context": {
            "exchanges": exchanges,
            "exchanges_tokens": exchanges_tokens,
            "tokens": found.endpoint.low or None,
            **_vram(line, dtype, found),
        },
        "limit_reason": str(found.endpoint.failed.outcome) if found.endpoint.failed else None,
        "quality_limit_tokens": found.quality.held.tokens
        if found.quality.failed and found.quality.held
        else None,
        "vram_growth": {
            "source": None
            if dtype is None
            else f"{found.held_in_words.lower()} of a child process in {dtype}",
            "model_vram_gb": None if line is None else round(line.intercept / GB, 3),
            "kv_cache_per_token_mb": None if line is None else round(line.slope / MB, 6),
            "kv_cache_bytes_per_token": None if line is None else round(line.slope, 1),
            "r_squared": None if line is None else round(line.r_squared, 6),
        },
        "recommended": {item.name: item.value for item in found.constants},
        "rules": {item.name: item.rule for item in found.constants},
        "max_safe_context": next(
            (item.value for item in found.constants if item.name == "MAX_CONTEXT_TOKENS"), None
        ),
    }


def _vram(line: Line | None, dtype: str | None, found: Estimate) -> dict[str, Any]:
    """Return the memory at the largest accepted context, by the line of a child, and that it is extrapolated."""
    if line is None or not found.endpoint.low:
        return {"vram_gb": None, "vram_source": "no child process was measured"}
    measured, tokens = line.last_tokens, found.endpoint.low
    how = "extrapolated" if tokens > measured else "read off the line"
    source = f"{how} at {tokens:,} tokens, from a child process in {dtype} that was measured up to {measured:,} tokens"
    return {"vram_gb": round(line.bytes_at(tokens) / GB, 3), "vram_source": source}


def _test(frame: pd.DataFrame, probe: Probe, memory: Memory) -> dict[str, Any]:
    row = frame[frame["request_id"] == probe.detail.get("request_id")]
    ttft = row["ttft_ms"].iloc[0] if len(row) else None
    return {
        "exchanges": probe.detail.get("exchanges"),
        "tokens": probe.tokens,
        "success": probe.held,
        "outcome": None if probe.outcome is None else str(probe.outcome),
        "error": probe.detail.get("message"),
        "ttft_ms": None if ttft is None or pd.isna(ttft) else round(float(ttft), 3),
        **_seen(row, probe, memory),
    }


def _seen(row: pd.DataFrame, probe: Probe, memory: Memory) -> dict[str, Any]:
    """Return what the samplers saw while a context was tried, by series; or why they saw nothing."""
    if not len(row):
        return {"memory_gb": None, "memory_reason": "the request is not on record"}
    windows, attempt = memory.windows, row["attempt"].iloc[0]
    mine = (windows["name"] == probe.trial_id) & (windows["attempt"] == attempt)
    part = windows[mine & (windows["session_id"] == probe.session_id)]
    if not len(part):
        return {"memory_gb": None, "memory_reason": memory.why_not(probe.session_id)}
    names = ("baseline", "peak", "delta")
    seen = {
        each["series"]: {name: round(each[f"{name}_bytes"] / GB, 6) for name in names}
        for each in part.to_dict("records")
    }
    return {"memory_gb": seen, "memory_reason": None}
