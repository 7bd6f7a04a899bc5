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
