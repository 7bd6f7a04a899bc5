"""The criteria of the verdict, each with what was seen."""

from typing import TYPE_CHECKING

import pandas as pd

from kvlab.endpoint import Identity
from kvlab.experiments.context_limit_probe import analysis
from kvlab.experiments.context_limit_probe.analysis import Findings
from kvlab.experiments.context_limit_probe.constants import value
from kvlab.experiments.context_limit_probe.ledger import Bracket
from kvlab.experiments.context_limit_probe.outcomes import WORDS, Outcome
from kvlab.summary import Check, Verdict

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams


def checks(
    found: Findings, table: pd.DataFrame, params: "ContextLimitProbeParams", identity: Identity | None
) -> list[Check]:
    """Return every criterion; ``holds`` is ``None`` where it cannot be said."""
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


def verdict(checks: list[Check]) -> tuple[Verdict, list[str]]:
    """FAIL on any broken criterion; INVALID where no limit was found; growth may be unmeasurable."""
    by_name = {check.name: check for check in checks}
    if broken := [check for check in checks if check.holds is False]:
        return Verdict.FAIL, [f"not met: {check.asks}: {check.seen}" for check in broken]
    for name in ("limit_found", "recommendation_is_safe"):
        if by_name[name].holds is None:
            return Verdict.INVALID, [f"cannot be said: {by_name[name].asks}: {by_name[name].seen}"]
    return Verdict.PASS, [f"{check.asks}: {check.seen}" for check in checks if check.holds]
