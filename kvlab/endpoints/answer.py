"""From an answer to the evidence in it, for every way in which requests are made."""

from typing import TYPE_CHECKING

from kvlab.endpoints.models import another
from kvlab.evidence import Evidence, as_tokens, usage_evidence
from kvlab.timing.request import Measurement
from kvlab.timing.stream import usage_contradiction

if TYPE_CHECKING:
    from kvlab.endpoints.metrics import ServerView


def evidence_of(
    measurement: Measurement,
    *,
    asked: str | None = None,
    aliases: frozenset[str] = frozenset(),
    server: "ServerView | None" = None,
) -> Evidence:
    """Return what an answer, and the server's counters beside it, say of the cache.

    Args:
        measurement: The request.
        asked: The model that it was sent to.
        aliases: Other names of that model (`kvlab.endpoints.models`).
        server: The counters' difference over this request alone.
    """
    generation = measurement.generation
    prompt_tokens, cached = usage_evidence(measurement.usage if generation is None else generation.usage)
    if generation is None:
        return Evidence(prompt_tokens)
    return Evidence(
        prompt_tokens,
        cached,
        None if server is None else server.cached_tokens,
        as_tokens(generation.field_value),
        metrics_reason=None if server is None else server.reason,
        contradiction=another(asked, generation.model, aliases) or usage_contradiction(generation),
    )
