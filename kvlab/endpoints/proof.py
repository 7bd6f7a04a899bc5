"""What a server can prove about its cache: one judgement, for ``kvlab doctor`` and for a run.

It is made of what `kvlab.endpoints.probe` has seen, and only of that.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvlab.endpoints.facts import Fact

if TYPE_CHECKING:
    from kvlab.endpoints.connect import Identity

#: The fact that holds this judgement, and the need of an experiment that it answers.
CACHE_STATES, NEED = "cache_states", "cached_tokens"
#: The setting by which a server says what it has read from its cache.
SETTINGS = {
    "vLLM": "start vLLM with `--enable-prompt-tokens-details`",
    "SGLang": "start SGLang with `--enable-cache-report`",
}
#: Whether one cache answers: if not, labels are as true as ever, and hits are rarer.
ONE_CACHE = "one_cache"


def proves(identity: "Identity") -> Fact:
    """Return whether a cold request and a hit can both be shown, by what; or why not."""
    facts = identity.facts
    usage, counters = facts.get(NEED, Fact()), facts.get("cached_counters", Fact())
    if (model := facts.get("model", Fact())).holds is False:
        return Fact(holds=False, why=model.why)
    if (reuse := facts.get("reuse", Fact())).holds is False:
        return Fact(holds=False, why=reuse.why)
    shown = usage if usage.holds else counters
    if not shown.holds:
        return Fact(
            holds=False, why="; ".join(fact.why for fact in (usage, counters) if fact.why != Fact().why)
        )
    if identity.law is None:
        why = "what its cache reuses is unknown, so a full hit is not shown: set KV_BLOCK_SIZE_TOKENS"
        return Fact(holds=False, why=f"{shown.why}; {why}")
    if (law := facts.get("law", Fact())).holds is False:
        return Fact(holds=False, why=f"{shown.why}; {law.why}")
    several = facts.get(ONE_CACHE, Fact())
    return Fact(holds=True, why=f"{shown.why}; {several.why}" if several.holds is False else shown.why)


def lacking(identity: "Identity", needs: Sequence[str]) -> list[tuple[str, str]]:
    """Return which of an experiment's needs a server does not meet, each with the reason."""
    found = [(need, shown(identity, need)) for need in needs]
    return [(need, fact.why) for need, fact in found if fact.holds is not True]


def shown(identity: "Identity", need: str) -> Fact:
    """Return what was found out about a need of an experiment."""
    if need != NEED:
        return identity.facts.get(need, Fact())
    return identity.facts.get(CACHE_STATES) or proves(identity)


def nothing_reused(identity: "Identity") -> str | None:
    """Return why 0 cached tokens prove nothing on a server; ``None``: they prove a cold request."""
    reuse = identity.facts.get("reuse", Fact())
    return None if reuse.holds is not False else f"0 cached tokens prove nothing here: {reuse.why}"


def how_to_prove(identity: "Identity | None") -> str:
    """Return what to set so that a server shows its cache states; where it can show them, what else to look at."""
    if identity is None:
        return "run `kvlab doctor`: it says what this endpoint can prove"
    facts, about = identity.facts, "run `kvlab doctor` to see that it says so, and measure again"
    if (model := facts.get("model", Fact())).holds is False:
        return model.why
    if (reuse := facts.get("reuse", Fact())).holds is False:
        return f"turn prefix caching on (vLLM: `--enable-prefix-caching`), as {reuse.why}; then {about}"
    if not (facts.get(NEED, Fact()).holds or facts.get("cached_counters", Fact()).holds):
        either = (
            f"{'; '.join(SETTINGS.values())}; with another server, docs/howto/own_server.md says what to set"
        )
        return f"{SETTINGS.get(identity.kind, either)}; then {about}"
    if identity.law is None or facts.get("law", Fact()).holds is False:
        return "set `KV_BLOCK_SIZE_TOKENS` to the server's block size (`kvlab run cache_laws` learns it), and measure again"
    return (
        "this server can show its cache states, so other requests came in between or entries were evicted: let nobody else "
        "use it, raise its cache, and measure again"
    )
