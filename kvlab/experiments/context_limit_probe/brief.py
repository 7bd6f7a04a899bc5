"""What a context-limit probe says first, and what a PASS is good for."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvlab import findings
from kvlab.brief import Brief, KeyFigure, in_the_way
from kvlab.experiments.context_limit_probe.estimate import Estimate, value
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT
from kvlab.findings import Check, Verdict

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams

#: What a check in the way means for somebody who sets the limit of an application.
_WORDS = {
    "limit_found": "where the endpoint's limit lies was not found",
    "growth_predictable": "memory does not grow along a line, so what fits cannot be foretold",
    "bytes_per_token_as_theory": "a token takes another amount of memory than the model's layout says",
    "recommendation_is_safe": "no length can be recommended",
    "no_failure_below_expected": "prompts fail that the server promises to accept",
    "replay_never_fails": "a long conversation failed though it kept to the recommended length",
}
THEN = [
    "paste `recommended.env` (or `recommended.py`) into your application: it holds all four constants",
    "see what trimming by them costs under load: `kvlab run batch_benchmark --set context_limit_summary=…/summary.json` of "
    "this run",
]


def brief(checks: Sequence[Check], found: Estimate, params: "ContextLimitProbeParams") -> Brief:
    """Return the sentence and the figure."""
    verdict, blocking = findings.in_the_way(checks)
    tried = sum(probe.target == ENDPOINT and probe.outcome is not None for probe in found.probes)
    held, failed = found.endpoint.held, found.endpoint.failed
    if held is None:
        sentence = (
            "No answer: the endpoint accepted no prompt at all."
            if tried
            else "No answer: nothing was measured."
        )
        return Brief(
            sentence=sentence, figure=KeyFigure(value="0 tokens", label=f"accepted, of {tried} sizes tried")
        )
    accepted = f"This endpoint accepts prompts of up to {found.endpoint.low:,} tokens"
    if failed is None:
        accepted = (
            f"This endpoint accepts prompts of {found.endpoint.low:,} tokens, and its limit was not reached"
        )
    between = f"{tried} sizes tried on the endpoint" + (
        f"; {held.tokens:,} tokens accepted, {failed.tokens:,} not" if failed else ""
    )
    sentence = f"{accepted}{_use(found)}."
    if verdict is not Verdict.PASS:
        sentence = in_the_way(
            blocking, _WORDS, unknown="No sure answer yet", broken="Not safe to use as it is"
        )
    return Brief(
        sentence=sentence,
        figure=_figure(found, between, params.safe_fraction, sure=verdict is Verdict.PASS),
        picture="limits",
        then=THEN,
    )


def _use(found: Estimate) -> str:
    parts = []
    if found.quality.failed is not None and found.quality.held is not None:
        parts.append(f"questions about its start are answered up to {found.quality.low:,}")
    if found.constants:
        parts.append(f"keep conversations below {value(found.constants, 'MAX_CONTEXT_TOKENS'):,}")
    return f"; {'; '.join(parts)}" if parts else ""


def _figure(found: Estimate, between: str, safe: float, *, sure: bool) -> KeyFigure:
    if not found.constants:
        return KeyFigure(
            value=f"{found.endpoint.low:,} tokens",
            label="the longest prompt that was accepted; no length is recommended",
            interval=between,
        )
    return KeyFigure(
        value=f"{value(found.constants, 'MAX_CONTEXT_TOKENS'):,} tokens",
        label=f"the longest context to use (MAX_CONTEXT_TOKENS){'' if sure else '; not to be relied on yet'}",
        interval=f"below {safe:.0%} of the {found.maximum:,} tokens measured ({found.because}); {between}",
    )
