"""``context_limit_results.json`` and the constants, ready to be pasted."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.endpoint import Identity
from kvlab.experiments.context_limit_probe import analysis, constants
from kvlab.experiments.context_limit_probe.analysis import Findings
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams

GB, MB = 1e9, 1e6


def exports(
    frame: pd.DataFrame,
    params: "ContextLimitProbeParams",
    stored: Mapping[str, Any],
    identity: Identity | None,
) -> dict[str, str | bytes]:
    """Return the files by name; the pasteable ones only where there is something to paste."""
    found = analysis.findings(analysis.read_probes(frame), params)
    content = results(frame, found, params, stored, identity)
    files: dict[str, str | bytes] = {
        "context_limit_results.json": json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        + "\n"
    }
    if found.constants:
        model = identity.model if identity else "unknown"
        head = f"# Measured by kvlab on {stored['created_utc']} for {model}.\n"
        files["recommended.env"] = head + constants.as_env(found.constants)
        files["recommended.py"] = head + constants.as_python(found.constants)
    return files


def results(
    frame: pd.DataFrame,
    found: Findings,
    params: "ContextLimitProbeParams",
    stored: Mapping[str, Any],
    identity: Identity | None,
) -> dict[str, Any]:
    """Return the content of ``context_limit_results.json``; ``None`` where something was not measured."""
    line = next((line for _, line in found.children.values() if line is not None), None)
    dtype = next((name for name, (_, line) in found.children.items() if line is not None), None)
    tested = [_test(frame, probe) for probe in found.probes if probe.target == ENDPOINT]
    at_most = None if line is None or found.maximum is None else line.intercept + line.slope * found.maximum
    return {
        "date": stored["created_utc"],
        "model": identity.model if identity else None,
        "engine": identity.kind if identity else None,
        "test_sizes": params.exchanges,
        "tests": tested,
        "maximum_tested_context": {
            "exchanges": max(
                (test["exchanges"] for test in tested if test["success"] and test["exchanges"]), default=None
            ),
            "tokens": found.endpoint.low or None,
            "vram_gb": None if at_most is None else round(at_most / GB, 3),
        },
        "limit_reason": str(found.endpoint.failed.outcome) if found.endpoint.failed else None,
        "quality_limit_tokens": found.quality.held.tokens
        if found.quality.failed and found.quality.held
        else None,
        "vram_growth": {
            "source": None if dtype is None else f"resident memory of a child process in {dtype}",
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


def _test(frame: pd.DataFrame, probe: Any) -> dict[str, Any]:  # noqa: ANN401 - a Probe
    row = frame[frame["request_id"] == probe.detail.get("request_id")]
    ttft = row["ttft_ms"].iloc[0] if len(row) else None
    return {
        "exchanges": probe.detail.get("exchanges"),
        "tokens": probe.tokens,
        "success": probe.held,
        "outcome": None if probe.outcome is None else str(probe.outcome),
        "error": probe.detail.get("message"),
        "ttft_ms": None if ttft is None or pd.isna(ttft) else round(float(ttft), 3),
    }
