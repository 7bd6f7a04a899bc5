"""What the cache laws say first, and what to do with them."""

from collections.abc import Sequence

from kvlab import findings
from kvlab.brief import Brief, KeyFigure, in_the_way
from kvlab.experiments.cache_laws.outcomes import Outcomes
from kvlab.findings import Check
from kvlab.laws.law import CacheLaw

#: What a check in the way means for somebody who counts on the cache.
_WORDS = {
    "cached_tokens_reported": "not every answer says what was read from the cache",
    "cold_reads_nothing": "prompts that share nothing were found in the cache, so somebody else's are in it",
    "law_predicts": "the rule that was learned did not predict every prompt that was kept back to check it",
    "hit_is_same": "answers after a cache hit differ from those without",
}


def brief(found: Outcomes, checks: Sequence[Check]) -> Brief:
    """Return the sentence, the step of reuse, and how to use it."""
    law, blocking = found.law, findings.in_the_way(checks)[1]
    if law is None:
        probes = len(found.probes)
        reason = found.reason("law") or "nothing was measured"
        if "law" not in found.params.parts and probes:
            reason = "the law itself was not asked for (`parts`)"
        return Brief(
            sentence=f"What this server's cache reuses could not be told: {reason}.",
            figure=KeyFigure(value=f"{probes:,}", label="probes answered"),
            picture="cached_over_length",
            then=["add `law` to `parts` for the law of reuse"],
        )
    return Brief(
        sentence=_sentence(law, found.shortest_hit_tokens)
        if not blocking
        else in_the_way(blocking, _WORDS, unknown="No sure answer yet", broken="Not to be relied on"),
        figure=KeyFigure(
            value=_tokens(law.grain_tokens),
            label="the step in which this server's cache reuses a prompt",
            interval=_shown(found),
        ),
        picture="cached_over_length",
        then=[
            f"put first what your prompts share, and last what differs: {_reused(law)}",
            "measure what a hit saves in time: `kvlab run token_sweep`; it holds its labels against this law",
        ],
    )


def _sentence(law: CacheLaw, shortest: int | None) -> str:
    end = law.grain_tokens * (1 + law.grains_off) - 1 + law.always_computed_tokens
    parts = [
        "A prompt that comes again is reused, "
        + ("token by token" if law.grain_tokens == 1 else f"in steps of {_tokens(law.grain_tokens)}")
    ]
    if end > 0:
        parts.append(f"up to {_tokens(end)} at its end {'is' if end == 1 else 'are'} computed again")
    if shortest is not None and shortest > law.shared_start_tokens + 2:
        parts.append(f"one below {shortest:,} tokens is never reused")
    return "; ".join(parts) + "."


def _reused(law: CacheLaw) -> str:
    if law.grain_tokens == 1:
        return "reuse ends at the first token that differs"
    return f"reuse ends at the first token that differs, and only whole steps of {_tokens(law.grain_tokens)} count"


def _tokens(count: int) -> str:
    return f"{count:,} token{'' if count == 1 else 's'}"


def _shown(found: Outcomes) -> str:
    outcome = found.get("law")
    n, right, wrong = outcome.get("held_out"), outcome.get("predicted"), outcome.get("wrong_at_most")
    if not n:
        return "no prompt was held out to check it"
    bound = (
        ""
        if wrong is None
        else f", which shows {1 - wrong:.0%} or more to be right (95 %, exact binomial, n = {n})"
    )
    return f"{right} of {n} prompts that were kept back were predicted to the token{bound}"
