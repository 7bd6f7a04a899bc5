"""The verdict by the criteria, and everything that the report says."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.experiments.context_limit_probe import exports, pictures, replay, tables
from kvlab.experiments.context_limit_probe.brief import brief
from kvlab.experiments.context_limit_probe.estimate import Estimate, estimate, expected_tokens, value
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, Probe, counts_only_computed, read
from kvlab.experiments.context_limit_probe.memory import Memory
from kvlab.experiments.context_limit_probe.outcomes import WORDS, ProbeOutcome
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.search import next_size, tolerance_tokens
from kvlab.findings import Check, Findings
from kvlab.runs.data import RunData

#: So many characters of a server's sentence are shown beside the verdict; all of it is in the table of sizes.
_SENTENCE = 200

_NO_ANSWER = "run `kvlab doctor`: the endpoint must answer a short prompt before its limit can be found"
_CHILD = (
    "close what else uses memory, raise `headroom_mib` and `in_process_tokens` so that more lengths are measured, and run "
    "again; `dtypes: []` leaves memory out"
)


def findings(data: RunData, params: ContextLimitProbeParams) -> Findings:
    """Judge a run by what was tried, what the children held, and what the replays cost."""
    found, frame, identity = estimate(read(data.sql), params), data.requests, data.identity
    replays, memory = (
        replay.replays(frame, found.constants, params, counts_all=not counts_only_computed(found.probes)),
        Memory.read(data.sql),
    )
    checks = _checks(found, replays, params, identity)
    return Findings(
        headline=_headline(found, replays),
        checks=checks,
        results=_results(frame, found, replays, params),
        tables=tables.tables(frame, found, replays, memory, params),
        pictures=pictures.pictures(frame, found, memory, params),
        limitations=_limitations(found, replays, params, identity, memory),
        files=exports.files(frame, found, memory, params, data.stored, identity),
        brief=brief(checks, found, params),
    )


# The criteria -----------------------------------------------------------------------------------------


def _checks(
    found: Estimate, replays: pd.DataFrame, params: ContextLimitProbeParams, identity: Identity | None
) -> list[Check]:
    return [
        _limit_found(found, params, identity),
        _predictable(found, params),
        _near_theory(found, params),
        _below_safe(found, params),
        _as_expected(found, identity),
        _replay_holds(found, replays, params),
    ]


def _limit_found(found: Estimate, params: ContextLimitProbeParams, identity: Identity | None) -> Check:
    name, held, failed = "limit_found", found.endpoint.held, found.endpoint.failed
    if held is None or failed is None:
        seen = "nothing was accepted" if held is None else f"{held.tokens:,} accepted, nothing longer failed"
        fix = (
            _NO_ANSWER
            if held is None
            else "raise `ceiling_tokens`, `exchanges` and `longest_wait_s`, so that longer prompts are tried"
        )
        asks = "the limit lies between two neighbouring sizes"
        return Check(name=name, asks=asks, seen=seen, passed=None, advice=fix)
    tolerance = tolerance_tokens(held.tokens, params, identity)
    return Check(
        name=name,
        asks=f"the largest accepted and the smallest failed prompt are at most {tolerance} tokens apart",
        seen=f"{held.tokens:,} accepted, {_failed_in_words(found)}{_server_message(failed)}",
        passed=failed.tokens - held.tokens <= tolerance,
        advice="raise `cut_steps`, so that the search goes on to neighbouring sizes",
    )


def _failed_in_words(found: Estimate) -> str:
    failed = found.endpoint.failed
    if failed is None:
        return "nothing failed"
    about = "about " if "characters" in failed.detail else ""
    return f"{about}{failed.tokens:,} {WORDS[failed.outcome or ProbeOutcome.RUN_ENDED]}"


def _server_message(failed: Probe) -> str:
    """Return the server's own sentence."""
    message = " ".join(str(failed.detail.get("message") or "").split())
    if not message:
        return ""
    return f" (it says: {message if len(message) <= _SENTENCE else message[:_SENTENCE] + '…'})"


def _predictable(found: Estimate, params: ContextLimitProbeParams) -> Check:
    passed, shown = list[bool | None](), list[str]()
    for dtype, (_, line) in found.children.items():
        if line is None:
            passed.append(None)
            shown.append(f"{dtype}: no line")
            continue
        passed.append(
            line.r_squared >= params.min_r_squared and line.residual_fraction <= params.max_residual_fraction
        )
        shown.append(f"{dtype}: R² {line.r_squared:.5f}, residual {line.residual_fraction:.2%}")
    return Check(
        name="growth_predictable",
        asks=f"memory grows along a line: R² ≥ {params.min_r_squared:g} and no residual above "
        f"{params.max_residual_fraction:.0%} of the growth",
        seen="; ".join(shown) or "no growth was measured",
        passed=_all(passed),
        advice=_CHILD,
        optional=not found.children_tried,
    )


def _near_theory(found: Estimate, params: ContextLimitProbeParams) -> Check:
    passed, shown = list[bool | None](), list[str]()
    for dtype, (_, line) in found.children.items():
        theory = found.theory_bytes(dtype)
        if line is None or theory is None:
            passed.append(None)
            why = "not measured" if line is None else str(found.detail(dtype, "layout") or "no theory")
            shown.append(f"{dtype}: {why}")
            continue
        low, high = theory * (1 - params.growth_margin), theory * (1 + params.growth_margin)
        passed.append(line.low >= low and line.high <= high)
        shown.append(f"{dtype}: {line.slope:,.0f} ({line.low:,.0f} to {line.high:,.0f}) of {theory:,}")
    return Check(
        name="bytes_per_token_as_theory",
        asks=f"bytes per token, interval included, within {params.growth_margin:.0%} of the theory",
        seen="; ".join(shown) or "not measured",
        passed=_all(passed),
        advice=_CHILD,
        optional=not found.children_tried,
    )


def _all(passed: list[bool | None]) -> bool | None:
    """Return whether all hold: one that does not is enough for no, one that cannot be said for neither."""
    if False in passed:
        return False
    return None if None in passed or not passed else True


def _below_safe(found: Estimate, params: ContextLimitProbeParams) -> Check:
    seen, passed = found.because, None
    if found.maximum is not None:
        seen = f"{found.maximum:,} tokens are too short to trim in, or no two points of growth were accepted"
    if found.constants and found.maximum is not None:
        largest = value(found.constants, "MAX_CONTEXT_TOKENS")
        seen = f"{largest:,} of {found.maximum:,}: {largest / found.maximum:.2%}"
        passed = largest < params.safe_fraction * found.maximum
    return Check(
        name="recommendation_is_safe",
        asks=f"MAX_CONTEXT_TOKENS is below {params.safe_fraction:.0%} of the measured maximum",
        seen=seen,
        passed=passed,
        advice=_no_constants(found),
    )


def _no_constants(found: Estimate) -> str:
    if found.endpoint.held is None:
        return _NO_ANSWER
    if found.maximum is None:
        return "ask a model that answers such questions, or set `needles` to 0, which leaves quality out"
    return "add shorter lengths to `exchanges`, so that two points of growth are measured below the limit"


def _as_expected(found: Estimate, identity: Identity | None) -> Check:
    expected, failed = expected_tokens(found, identity), found.endpoint.failed
    seen, passed = "the server promises nothing", None
    if expected is not None and found.endpoint.held is not None:
        seen = f"promised {expected:,}; " + (f"{failed.tokens:,} failed" if failed else "nothing failed")
        # One token of the context is the generated one; and where tokens are guessed, a hundredth may be wrong.
        slack = expected // 100 if failed and "characters" in failed.detail else 1
        passed = failed is None or failed.tokens > expected - slack
    return Check(
        name="no_failure_below_expected",
        asks="nothing failed below the context that the server promises",
        seen=seen,
        passed=passed,
        advice="do not trust the promised length: use the measured constants, or give the server more memory for its cache",
        optional=True,
    )


def _replay_holds(found: Estimate, replays: pd.DataFrame, params: ContextLimitProbeParams) -> Check:
    passed: bool | None = None
    if not params.replay_exchanges or not found.constants:
        seen = "not asked for" if not params.replay_exchanges else "no constants to replay"
    else:
        turns, failed, trims = (
            int(replays[column].sum()) if len(replays) else 0 for column in ("turns", "failed", "trims")
        )
        asked = len(params.interval_factors)
        whole = len(replays) == asked and bool((replays["turns"] == params.replay_exchanges).all())
        seen, passed = f"{failed} of {turns} turns failed, over {trims} trims", failed == 0 and whole
        if not whole:
            seen += (
                f"; {len(replays)} of {asked} intervals were replayed, {turns} of "
                f"{asked * params.replay_exchanges} turns"
            )
    return Check(
        name="replay_never_fails",
        asks="a long conversation under the recommended constants never fails, at any interval",
        seen=seen,
        passed=passed,
        advice="lower `safe_fraction`, and run again; the failures of the replay are in requests.csv",
        optional=True,
    )


# What is said of it -----------------------------------------------------------------------------------


def _headline(found: Estimate, replays: pd.DataFrame) -> str:
    if found.endpoint.held is None:
        return "no context was accepted"
    parts = [f"{found.endpoint.low:,} tokens are accepted"]
    if (failed := found.endpoint.failed) is not None:
        about = "about " if "characters" in failed.detail else ""
        parts[0] += f", {about}{failed.tokens:,} not ({WORDS[failed.outcome or ProbeOutcome.RUN_ENDED]})"
    if found.quality.failed is not None and found.quality.held is not None:
        parts.append(f"what stands at the start is answered up to {found.quality.low:,}")
    for dtype, (_, line) in found.children.items():
        if line is not None:
            parts.append(f"{line.slope:,.0f} bytes per token in {dtype}")
    parts += [f"{item.name}={item.value}" for item in found.constants]
    if (cost := replay.cost_in_words(replays)) is not None:
        parts.append(cost)
    return "; ".join(parts)


def _results(
    frame: pd.DataFrame, found: Estimate, replays: pd.DataFrame, params: ContextLimitProbeParams
) -> Mapping[str, Any]:
    failed, best = found.endpoint.failed, replay.best_interval(replays)
    growth = found.growth_per_exchange
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
        "tokens_per_exchange": None if growth is None else round(growth, 1),
        "bytes_per_token": {dtype: _line(found, dtype, params) for dtype in found.children},
        "constants": {item.name: item.value for item in found.constants},
        "rules": {item.name: item.rule for item in found.constants},
        "replay_turns": replays["turns"].sum() if len(replays) else 0,
        "replay_failures": replays["failed"].sum() if len(replays) else None,
        "cheapest_interval": None if best is None else best["interval"],
        "failed_requests": (frame["status"] == "failed").sum(),
        "interval_confidence": params.confidence,
    }


def _message(found: Estimate) -> str | None:
    """Return what the server says at its limit: of several refusals, one that states a maximum."""
    refused = [
        probe.detail for probe in found.probes if probe.target == ENDPOINT and probe.detail.get("message")
    ]
    refused.sort(key=lambda detail: detail.get("stated") is None)
    return str(refused[0]["message"]) if refused else None


def _line(found: Estimate, dtype: str, params: ContextLimitProbeParams) -> dict[str, Any]:
    limits, line = found.children[dtype]
    theory = found.theory_bytes(dtype)
    shared = {
        "largest_held_tokens": limits.low or None,
        "smallest_failed_tokens": limits.failed.tokens if limits.failed else None,
        "failed_because": str(limits.failed.outcome) if limits.failed else None,
        "theory": theory,
        "layout": found.detail(dtype, "layout"),
        "ratio_explanation": tables.ratio_in_words(found, dtype, params.fit_from_tokens),
    }
    if line is None:
        return {**shared, "reason": "too few points to fit"}
    return {
        **shared,
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
    found: Estimate,
    replays: pd.DataFrame,
    params: ContextLimitProbeParams,
    identity: Identity | None,
    memory: Memory,
) -> list[str]:
    lines = memory.growth_in_words(found)
    more = next_size([probe for probe in found.probes if probe.target == ENDPOINT], params, identity)
    if more.left_out_tokens is not None:
        lines.append(
            f"No limit was found: {more.left_out_tokens:,} tokens were not tried, because {more.why}."
        )
    if len(replays) and replay.best_interval(replays) is None and not replays["failed"].any():
        cycles = min(int(mean.n) for mean in replays["mean_ttft_ms"])
        lines.append(
            "Which interval costs least is not said: their mean TTFTs are not apart, or too few whole cycles were replayed "
            f"for an interval (the fewest: {cycles}). A longer replay (replay_exchanges) has more."
        )
    unloaded = [each for each in found.probes if each.outcome is ProbeOutcome.COULD_NOT_LOAD]
    lines += [f"No child process in {each.target}: {each.detail.get('message')}." for each in unloaded]
    if found.children and not found.children_tried:
        lines.append(
            "No bytes per token: no child process loaded the model. It needs Linux, and weights: where the endpoint's are "
            "elsewhere, in_process_model names them."
        )
    if params.needles and found.quality.held is None:
        lines.append(
            "The facts at the start were answered at no length: what quality the context costs is unknown, and no "
            "constant is recommended. Where the model cannot answer such questions at all, needles=0 leaves them out."
        )
    if not params.needles and found.constants:
        lines.append(
            "Accepted is not used: whether the start of a context is still answered was not asked (needles=0)."
        )
    if counts_only_computed(found.probes):
        lines.append(
            "The server counts only those tokens of a prompt that were not in its cache: sizes were tried under "
            "markers that no cache knows, and the sizes of other prompts are estimates."
        )
    if found.quality.held is not None:
        lines.append(
            f"Quality is {params.needles} facts at the start, asked one by one and greedily: a limit of this prompt "
            "and this model, coarse by its number of questions."
        )
    return [
        *lines,
        "One request at a time: with many at once, each has its own context in the same cache.",
        "The replayed answers are scripted, so a turn also computes the answer before it; a server that has generated "
        "it may have it in the cache.",
        "What fits on other cards is extrapolated from the line: activations, fragmentation and the engine's own "
        "memory are not in it.",
    ]
