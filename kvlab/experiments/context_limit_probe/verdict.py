"""The verdict by the four criteria, and everything that the report says."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.endpoint import Identity
from kvlab.experiments.context_limit_probe import analysis
from kvlab.experiments.context_limit_probe.analysis import Findings
from kvlab.experiments.context_limit_probe.constants import value
from kvlab.experiments.context_limit_probe.growth import Line
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, Bracket
from kvlab.experiments.context_limit_probe.outcomes import WORDS, Outcome
from kvlab.experiments.context_limit_probe.tables import tables
from kvlab.summary import Check, Figure, Summary, Verdict

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams

FIGURES = [
    Figure(
        name="limits",
        title="Every size that was tried, and the limits",
        caption="A dot: held; a cross: not. The shaded range is what MAX_CONTEXT_TOKENS allows.",
    ),
    Figure(
        name="memory_per_token",
        title="Memory against context, in the child process",
        caption="Resident memory above the first fitted point; the dashed line is the theory, from config.json.",
    ),
    Figure(
        name="latency",
        title="TTFT and decode speed against context",
        caption="Coloured by what the context was: growing (part of it in the cache), warm (all but the question), cold.",
    ),
    Figure(
        name="replay",
        title="The replayed conversation, turn by turn",
        caption="Each peak is a trim: what follows the system message is computed anew.",
    ),
    Figure(
        name="memory_over_time",
        title="Memory over time",
        caption="Shaded: trials. A server that allocated its cache when it started hardly moves, whatever is asked of it.",
    ),
]


def summarize(
    frame: pd.DataFrame, params: "ContextLimitProbeParams", profile: str, identity: Identity | None
) -> Summary:
    """Judge a run."""
    found = analysis.findings(analysis.read_probes(frame), params)
    table = analysis.replays(frame, found, params)
    checks = _checks(found, table, params, identity)
    verdict, reasons = _verdict(checks)
    return Summary(
        experiment="context_limit_probe",
        profile=profile,
        verdict=verdict,
        headline=_headline(found, table),
        reasons=reasons,
        checks=checks,
        results=_results(frame, found, table, params),
        tables=tables(frame, found, table, params),
        figures=FIGURES,
        limitations=_limitations(found, table, params, identity),
    )


def _checks(
    found: Findings, table: pd.DataFrame, params: "ContextLimitProbeParams", identity: Identity | None
) -> list[Check]:
    return [
        _limit_found(found.endpoint, params, identity),
        _predictable(found, params),
        _near_theory(found, params),
        _below_safe(found, params),
        _as_expected(found, identity),
        _replay_holds(table, params),
    ]


def _limit_found(endpoint: Bracket, params: "ContextLimitProbeParams", identity: Identity | None) -> Check:
    held, failed = endpoint.held, endpoint.failed
    block = identity.block_size if identity is not None else None
    tolerance = params.resolution_tokens or max(block or 1, endpoint.low // 100)
    if held is None or failed is None:
        seen = "nothing was accepted" if held is None else f"{held.tokens:,} accepted, nothing longer failed"
        return _check("limit_found", "the limit lies between two neighbouring sizes", seen, None)
    why = WORDS[failed.outcome or Outcome.RUN_ENDED]
    seen = f"{held.tokens:,} accepted, {failed.tokens:,} {why}"
    asks = f"the largest accepted and the smallest failed prompt are at most {tolerance} tokens apart"
    return _check("limit_found", asks, seen, failed.tokens - held.tokens <= tolerance)


def _predictable(found: Findings, params: "ContextLimitProbeParams") -> Check:
    asks = (
        f"memory grows along a line: R² ≥ {params.min_r_squared:g} and no residual above "
        f"{params.max_residual_fraction:.0%} of the growth"
    )
    lines = {dtype: line for dtype, (_, line) in found.children.items()}
    if not lines or all(line is None for line in lines.values()):
        return _check("growth_predictable", asks, "no growth was measured", None)
    holds = all(
        line is not None
        and line.r_squared >= params.min_r_squared
        and line.residual_fraction <= params.max_residual_fraction
        for line in lines.values()
    )
    seen = "; ".join(
        f"{dtype}: "
        + ("no line" if line is None else f"R² {line.r_squared:.5f}, residual {line.residual_fraction:.2%}")
        for dtype, line in lines.items()
    )
    return _check("growth_predictable", asks, seen, holds)


def _near_theory(found: Findings, params: "ContextLimitProbeParams") -> Check:
    asks = f"bytes a token, interval included, within {params.growth_margin:.0%} of the theory"
    shown, verdicts = [], list[bool]()
    for dtype, (_, line) in found.children.items():
        theory = found.detail(dtype, "theory_bytes_per_token")
        if line is None or not theory:
            continue
        verdicts.append(
            line.low >= theory * (1 - params.growth_margin)
            and line.high <= theory * (1 + params.growth_margin)
        )
        shown.append(f"{dtype}: {line.slope:,.0f} ({line.low:,.0f} to {line.high:,.0f}) of {theory:,}")
    return _check(
        "bytes_per_token_as_theory",
        asks,
        "; ".join(shown) or "not measured",
        all(verdicts) if verdicts else None,
    )


def _below_safe(found: Findings, params: "ContextLimitProbeParams") -> Check:
    asks = f"MAX_CONTEXT_TOKENS is below {params.safe_fraction:.0%} of the measured maximum"
    if not found.constants or found.maximum is None:
        return _check("recommendation_is_safe", asks, "no constants", None)
    largest = value(found.constants, "MAX_CONTEXT_TOKENS")
    return _check(
        "recommendation_is_safe",
        asks,
        f"{largest:,} of {found.maximum:,}: {largest / found.maximum:.2%}",
        largest < params.safe_fraction * found.maximum,
    )


def _as_expected(found: Findings, identity: Identity | None) -> Check:
    expected, failed = analysis.expected_tokens(found, identity), found.endpoint.failed
    asks = "nothing failed below the context that the server promises"
    if expected is None or found.endpoint.held is None:
        return _check("no_failure_below_expected", asks, "the server promises nothing", None)
    seen = f"promised {expected:,}; " + (f"{failed.tokens:,} failed" if failed else "nothing failed")
    # One token of the context is the generated one.
    return _check("no_failure_below_expected", asks, seen, failed is None or failed.tokens > expected - 1)


def _replay_holds(table: pd.DataFrame, params: "ContextLimitProbeParams") -> Check:
    asks = "a long conversation under the recommended constants never fails, at any interval"
    if not len(table):
        return _check("replay_never_fails", asks, "not replayed", None)
    turns, failed, trims = (int(table[name].sum()) for name in ("turns", "failed", "trims"))
    whole = bool((table["turns"] == params.replay_exchanges).all())
    return _check(
        "replay_never_fails",
        asks,
        f"{failed} of {turns} turns failed, over {trims} trims",
        failed == 0 and whole,
    )


def _check(name: str, asks: str, seen: str, holds: bool | None) -> Check:
    return Check(name=name, asks=asks, seen=seen, holds=holds)


def _verdict(checks: list[Check]) -> tuple[Verdict, list[str]]:
    """FAIL on any broken criterion; INVALID where no limit was found; growth may be unmeasurable."""
    by_name = {check.name: check for check in checks}
    if broken := [check for check in checks if check.holds is False]:
        return Verdict.FAIL, [f"not met: {check.asks}: {check.seen}" for check in broken]
    for name in ("limit_found", "recommendation_is_safe"):
        if by_name[name].holds is None:
            return Verdict.INVALID, [f"cannot be said: {by_name[name].asks}: {by_name[name].seen}"]
    return Verdict.PASS, [f"{check.asks}: {check.seen}" for check in checks if check.holds]


def _headline(found: Findings, table: pd.DataFrame) -> str:
    if found.endpoint.held is None:
        return "no context was accepted"
    parts = [f"{found.endpoint.low:,} tokens are accepted"]
    if (failed := found.endpoint.failed) is not None:
        parts[0] += f", {failed.tokens:,} not ({WORDS[failed.outcome or Outcome.RUN_ENDED]})"
    if found.quality.failed is not None and found.quality.held is not None:
        parts.append(f"what stands at the start is answered up to {found.quality.low:,}")
    for dtype, (_, line) in found.children.items():
        if line is not None:
            parts.append(f"{line.slope:,.0f} bytes a token in {dtype}")
    parts += [f"{item.name}={item.value}" for item in found.constants]
    if (best := analysis.best_interval(table)) is not None:
        parts.append(f"of the intervals, {best['interval']} costs least")
    return "; ".join(parts)


def _results(
    frame: pd.DataFrame, found: Findings, table: pd.DataFrame, params: "ContextLimitProbeParams"
) -> dict[str, Any]:
    failed = found.endpoint.failed
    best = analysis.best_interval(table)
    return {
        "largest_accepted_tokens": found.endpoint.held.tokens if found.endpoint.held else None,
        "smallest_failed_tokens": failed.tokens if failed else None,
        "apart_tokens": found.width,
        "limit_reason": str(failed.outcome) if failed else None,
        "limit_message": _message(found),
        "server_capacity": found.detail(ENDPOINT, "capacity"),
        "quality_held_tokens": found.quality.held.tokens if found.quality.held else None,
        "quality_lost_tokens": found.quality.failed.tokens if found.quality.failed else None,
        "maximum_tokens": found.maximum,
        "maximum_because": found.because,
        "tokens_per_exchange": None
        if found.growth_per_exchange is None
        else round(found.growth_per_exchange, 1),
        "bytes_per_token": {dtype: _line(found, dtype) for dtype in found.children},
        "constants": {item.name: item.value for item in found.constants},
        "rules": {item.name: item.rule for item in found.constants},
        "replay_turns": int(table["turns"].sum()) if len(table) else 0,
        "replay_failures": int(table["failed"].sum()) if len(table) else None,
        "cheapest_interval": None if best is None else int(best["interval"]),
        "failed_requests": int((frame["status"] == "failed").sum()),
        "interval_confidence": params.confidence,
    }


def _message(found: Findings) -> str | None:
    """Return what the server says at its limit: of several refusals, one that states a maximum."""
    refused = [
        probe.detail for probe in found.probes if probe.target == ENDPOINT and probe.detail.get("message")
    ]
    refused.sort(key=lambda detail: detail.get("stated") is None)
    return str(refused[0]["message"]) if refused else None


def _line(found: Findings, dtype: str) -> dict[str, Any] | None:
    limits, line = found.children[dtype]
    theory = found.detail(dtype, "theory_bytes_per_token")
    shared = {
        "largest_held_tokens": limits.low or None,
        "smallest_failed_tokens": limits.failed.tokens if limits.failed else None,
        "failed_because": str(limits.failed.outcome) if limits.failed else None,
        "theory": theory,
        "layout": found.detail(dtype, "layout"),
    }
    return {**shared, **(_figures(line, theory) if line else {"reason": "too few points to fit"})}


def _figures(line: Line, theory: int | None) -> dict[str, Any]:
    return {
        "estimate": round(line.slope, 1),
        "low": round(line.low, 1),
        "high": round(line.high, 1),
        "ratio_to_theory": round(line.slope / theory, 4) if theory else None,
        "r_squared": round(line.r_squared, 6),
        "max_residual_bytes": round(line.max_residual_bytes),
        "points": line.points,
        "model_bytes": round(line.intercept),
    }


def _limitations(
    found: Findings, table: pd.DataFrame, params: "ContextLimitProbeParams", identity: Identity | None
) -> list[str]:
    lines = []
    if (found.detail(ENDPOINT, "capacity") or {}).get("blocks"):
        lines.append(
            "The server allocated its KV cache when it started, so its memory does not grow with the context, and no "
            "line is fitted to it: bytes a token come from a process in which they do grow."
        )
    if len(table) and analysis.best_interval(table) is None and not table["failed"].any():
        lines.append(
            "The replay is too short for two trims at every interval: which one is cheapest is not said."
        )
    if found.children and not any(line for _, line in found.children.values()):
        lines.append(
            "No bytes a token: no child process loaded the model (the endpoint's weights are elsewhere; "
            "in_process_model names them)."
        )
    if params.needles and found.quality.held is None:
        lines.append(
            "The facts at the start were answered at no length: what quality the context costs is unknown."
        )
    if found.quality.held is not None:
        lines.append(
            f"Quality is {params.needles} facts at the start, asked one by one and greedily: a limit of this prompt "
            "and this model, coarse by its number of questions."
        )
    lines += [
        "One request at a time: with many at once, each has its own context in the same cache.",
        "The replayed answers are scripted, so a turn also computes the answer before it; a server that has generated "
        "it may have it in the cache.",
        "What fits on other cards is extrapolated from the line: activations, fragmentation and the engine's own "
        "memory are not in it.",
    ]
    for key, fact in (identity.facts if identity else {}).items():
        if fact.holds is not True:
            lines.append(f"Not proven of this endpoint: {key} ({fact.why}).")
    return lines
