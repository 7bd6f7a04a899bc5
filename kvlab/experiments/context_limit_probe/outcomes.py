"""What becomes of a probe, and why: from an answer or a failure to one word."""

import re
from dataclasses import dataclass
from enum import StrEnum

from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure


class Outcome(StrEnum):
    """How a probe ended. The labels are stable: databases and reports hold them."""

    HELD = "held"
    REFUSED = "refused_by_server"
    OUT_OF_MEMORY = "out_of_memory"
    CACHE_EXHAUSTED = "cache_exhausted"
    TIMEOUT = "timeout"
    QUALITY_LOST = "quality_lost"
    TRUNCATED = "truncated_silently"
    SERVER_DIED = "server_died"
    CHILD_DIED = "child_died"
    RUN_ENDED = "run_ended"


#: What each says to a person.
WORDS = {
    Outcome.HELD: "held",
    Outcome.REFUSED: "refused by the server",
    Outcome.OUT_OF_MEMORY: "out of memory",
    Outcome.CACHE_EXHAUSTED: "KV cache exhausted or preempted",
    Outcome.TIMEOUT: "no answer in time",
    Outcome.QUALITY_LOST: "what stands at the start is no longer answered",
    Outcome.TRUNCATED: "cut silently: the server counted fewer tokens than were sent",
    Outcome.SERVER_DIED: "the server died",
    Outcome.CHILD_DIED: "the child process died",
    Outcome.RUN_ENDED: "the run ended while it was tried",
}

_MEMORY = re.compile(
    r"out of memory|outofmemory|can't allocate memory|cannot allocate memory|bad_alloc|memoryerror|"
    r"failed to allocate|insufficient memory",
    re.IGNORECASE,
)
_CACHE = re.compile(
    r"kv[ -]?cache|kv slot|memory slot|no (?:free|available) (?:cache )?(?:blocks|slots)|preempt",
    re.IGNORECASE,
)
_LENGTH = re.compile(
    r"context (?:length|size|window)|maximum (?:model|sequence|input)|max_model_len|too (?:long|large|many tokens)|"
    r"exceeds? .{0,40}(?:context|tokens|length)|n_ctx|input length|prompt length|number of tokens",
    re.IGNORECASE,
)
_STATED = (
    re.compile(
        r"maximum (?:context|model|sequence|input)[\w\s'-]{0,30}?(?:is|of|:)?\s*\(?(\d[\d,_]{2,})", re.I
    ),
    re.compile(r"context (?:length|size|window)\D{0,20}(\d[\d,_]{2,})", re.I),
    re.compile(r"(?:n_ctx|max_model_len|max_seq_len|num_ctx)\W{0,5}(\d[\d,_]{2,})", re.I),
)


@dataclass(frozen=True)
class Seen:
    """What is known of one probe on an endpoint.

    Attributes:
        tokens: How long the prompt was meant to be.
        failure: Why there is no answer; ``None``: there is one.
        counted_tokens: The server's own count of the prompt.
        count_is_exact: Whether ``tokens`` is what this server would count.
        room_tokens: The context that the server states, less what was to be generated.
        alive: Whether the server still answered afterwards.
        preemptions: How many requests the server preempted meanwhile; ``None``: it does not say.
    """

    tokens: int
    failure: Failure | None = None
    counted_tokens: int | None = None
    count_is_exact: bool = True
    room_tokens: int | None = None
    alive: bool = True
    preemptions: float | None = None


def classify(seen: Seen) -> Outcome | None:
    """Return what became of a probe; ``None``: a failure that says nothing about its length."""
    if seen.failure is None:
        return _of_an_answer(seen)
    kind, message = seen.failure.error_type, seen.failure.message
    if not seen.alive:
        return Outcome.SERVER_DIED
    if kind is ErrorType.TIMEOUT:
        return Outcome.TIMEOUT
    if kind not in (ErrorType.REFUSED_INPUT, ErrorType.ENGINE_ERROR):
        return None
    if _MEMORY.search(message):
        return Outcome.OUT_OF_MEMORY
    too_long = seen.room_tokens is not None and seen.tokens > seen.room_tokens
    if _LENGTH.search(message) or (kind is ErrorType.REFUSED_INPUT and too_long):
        return Outcome.REFUSED
    return Outcome.CACHE_EXHAUSTED if _CACHE.search(message) else None


def _of_an_answer(seen: Seen) -> Outcome:
    if seen.counted_tokens is not None:
        # An estimate may be off by some percent; a server that drops messages drops far more.
        least = seen.tokens if seen.count_is_exact else 0.9 * seen.tokens
        if seen.counted_tokens < least:
            return Outcome.TRUNCATED
    return Outcome.CACHE_EXHAUSTED if seen.preemptions else Outcome.HELD


def stated_maximum(message: str) -> int | None:
    """Return the longest context that a refusal names.

    >>> stated_maximum("This model's maximum context length is 8192 tokens. However, you requested 9000")
    8192
    """
    for pattern in _STATED:
        if (found := pattern.search(message)) is not None:
            return int(re.sub(r"[,_]", "", found.group(1)))
    return None
