"""The criteria of the verdict, each with what was seen."""

from typing import TYPE_CHECKING

import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.experiments.context_limit_probe import analysis
from kvlab.experiments.context_limit_probe.aim import tolerance_tokens
from kvlab.experiments.context_limit_probe.analysis import Findings
from kvlab.experiments.context_limit_probe.constants import value
from kvlab.experiments.context_limit_probe.ledger import Bracket
from kvlab.experiments.context_limit_probe.outcomes import WORDS, Outcome
from kvlab.findings import Check, Verdict

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
        _replay_holds(found, table, params),
    ]


def _limit_found(endpoint: Bracket, params: "ContextLimitProbeParams", identity: Identity | None) -> Check:
    held, failed = endpoint.held, endpoint.failed
    tolerance = tolerance_tokens(endpoint.low, params, identity)
    if held is None or failed is None:
        seen = "nothing was accepted" if held is None else f"{held.tokens:,} accepted, nothing longer failed"
        return _check("limit_found", "the limit lies between two neighbouring sizes", seen, None)
    about = "about " if "characters" in failed.detail else ""
    why = WORDS[failed.outcome or Outcome.RUN_ENDED]
    seen = f"{held.tokens:,} accepted, {about}{failed.tokens:,} {why}"
    asks = f"the largest accepted and the smallest failed prompt are at most {tolerance} tokens apart"
    return _check("limit_found", asks, seen, failed.tokens - held.tokens <= tolerance)


def _predictable(found: Findings, params: "ContextLimitProbeParams") -> Check:
    asks = (
        f"memory grows along a line: R² ≥ {params.min_r_squared:g} and no residual above "
        f"{params.max_residual_fraction:.0%} of the growth"
    )
    holds: list[bool | None] = [
        None
        if line is None
        else line.r_squared >= params.min_r_squared and line.residual_fraction <= params.max_residual_fraction
        for _, line in found.children.values()
    ]
    seen = "; ".join(
        f"{dtype}: "
        + ("no line" if line is None else f"R² {line.r_squared:.5f}, residual {line.residual_fraction:.2%}")
        for dtype, (_, line) in found.children.items()
    )
    return _check("growth_predictable", asks, seen or "no growth was measured", _all(holds))


def _near_theory(found: Findings, params: "ContextLimitProbeParams") -> Check:
    asks = f"bytes a token, interval included, within {params.growth_margin:.0%} of the theory"
    shown, holds = [], list[bool | None]()
    for dtype, (_, line) in found.children.items():
        theory = found.theory_bytes(dtype)
        if line is None or theory is None:
            holds.append(None)
            shown.append(
                f"{dtype}: "
                + ("not measured" if line is None else str(found.detail(dtype, "layout") or "no theory"))
            )
            continue
        low, high = theory * (1 - params.growth_margin), theory * (1 + params.growth_margin)
        holds.append(line.low >= low and line.high <= high)
        shown.append(f"{dtype}: {line.slope:,.0f} ({line.low:,.0f} to {line.high:,.0f}) of {theory:,}")
    return _check("bytes_per_token_as_theory", asks, "; ".join(shown) or "not measured", _all(holds))


def _all(holds: "list[bool | None]") -> bool | None:
    """Return whether all hold: one that does not is enough for no, one that cannot be said for neither."""
    if False in holds:
        return False
    return None if None in holds or not holds else True


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
    if failed is None:
        return _check("no_failure_below_expected", asks, seen, True)
    # One token of the context is the generated one; and where tokens are guessed, a hundredth may be wrong.
    slack = expected // 100 if "characters" in failed.detail else 1
    return _check("no_failure_below_expected", asks, seen, failed.tokens > expected - slack)


def _replay_holds(found: Findings, table: pd.DataFrame, params: "ContextLimitProbeParams") -> Check:
    name, asks = (
        "replay_never_fails",
        "a long conversation under the recommended constants never fails, at any interval",
    )
    if not params.replay_exchanges or not found.constants:
        why = "not asked for" if not params.replay_exchanges else "no constants to replay"
        return _check(name, asks, why, None)
    turns, failed, trims = (
        int(table[column].sum()) if len(table) else 0 for column in ("turns", "failed", "trims")
    )
    asked, wanted = len(params.interval_factors), len(params.interval_factors) * params.replay_exchanges
    whole = len(table) == asked and bool((table["turns"] == params.replay_exchanges).all())
    seen = f"{failed} of {turns} turns failed, over {trims} trims"
    if not whole:
        seen += f"; {len(table)} of {asked} intervals were replayed, {turns} of {wanted} turns"
    return _check(name, asks, seen, failed == 0 and whole)


def _check(name: str, asks: str, seen: str, holds: bool | None) -> Check:
    return Check(name=name, asks=asks, seen=seen, holds=holds)


def verdict(checks: list[Check], *, with_children: bool) -> tuple[Verdict, list[str]]:
    """FAIL on any broken criterion; INVALID where one cannot be said that the run set out to say.

    Args:
        checks: All criteria.
        with_children: Whether a child process was tried: then bytes a token are among what is to be said.
    """
    by_name = {check.name: check for check in checks}
    if broken := [check for check in checks if check.holds is False]:
        return Verdict.FAIL, [f"not met: {check.asks}: {check.seen}" for check in broken]
    needed = ["limit_found", "recommendation_is_safe"]
    needed += ["growth_predictable", "bytes_per_token_as_theory"] if with_children else []
    if unsaid := [by_name[name] for name in needed if by_name[name].holds is None]:
        return Verdict.INVALID, [f"cannot be said: {check.asks}: {check.seen}" for check in unsaid]
    return Verdict.PASS, [f"{check.asks}: {check.seen}" for check in checks if check.holds]
