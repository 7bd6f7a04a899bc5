"""What becomes of a probe, and why: from an answer or a failure to one word."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure


class ProbeOutcome(StrEnum):
    """How a probe ended. The labels are stable: databases and reports hold them."""

    HELD = "held"
    REFUSED = "refused_by_server"
    OUT_OF_MEMORY = "out_of_memory"
    CACHE_EXHAUSTED = "cache_exhausted"
    TIMEOUT = "timeout"
    QUALITY_LOST = "quality_lost"
    TRUNCATED = "truncated_silently"
    NOTHING = "answered_with_nothing"
    SERVER_ERROR = "server_error"
    SERVER_DIED = "server_died"
    COULD_NOT_LOAD = "could_not_load"
    CHILD_DIED = "child_died"
    RUN_ENDED = "run_ended"


#: What each says to a person.
WORDS = {
    ProbeOutcome.HELD: "held",
    ProbeOutcome.REFUSED: "refused by the server",
    ProbeOutcome.OUT_OF_MEMORY: "out of memory",
    ProbeOutcome.CACHE_EXHAUSTED: "KV cache exhausted or preempted",
    ProbeOutcome.TIMEOUT: "no answer in time",
    ProbeOutcome.QUALITY_LOST: "what stands at the start is no longer answered",
    ProbeOutcome.TRUNCATED: "cut silently: the server counted fewer tokens than were sent",
    ProbeOutcome.NOTHING: "counted, and answered with nothing",
    ProbeOutcome.SERVER_ERROR: "answered with an error that names no cause, or with nothing",
    ProbeOutcome.SERVER_DIED: "the server, or the engine behind it, died",
    ProbeOutcome.COULD_NOT_LOAD: "the model could not be loaded",
    ProbeOutcome.CHILD_DIED: "the child process died",
    ProbeOutcome.RUN_ENDED: "the run ended while it was tried",
}

# As the servers' own sources word it: vLLM, llama.cpp, Ollama, TGI, SGLang, and OpenAI's API.
_MEMORY = re.compile(
    r"out of memory|outofmemory|can't allocate memory|cannot allocate memory|bad_alloc|memoryerror|"
    r"failed to allocate|insufficient memory|requires more system memory|not enough memory",
    re.IGNORECASE,
)
_CACHE = re.compile(
    r"kv[ -]?cache|kv slot|memory slot|no (?:free|available) (?:cache )?(?:blocks|slots)|preempt",
    re.IGNORECASE,
)
# The front end still answers, and what computed is gone: vLLM's EngineDeadError, Ollama's runner.
_DEAD = re.compile(
    r"enginecore encountered an issue|engine ?dead|engine (?:core |process )?(?:is dead|has died|died)|"
    r"runner (?:has unexpectedly stopped|process (?:has terminated|no longer running))",
    re.IGNORECASE,
)
_SLOW = re.compile(r"(?:took|taking) too long|timed? ?-?out|deadline exceeded", re.IGNORECASE)
_LENGTH = re.compile(
    r"context (?:length|size|window)|context_length_exceeded|maximum (?:model|sequence|input)|max_model_len|"
    r"(?<!took )(?<!taking )too (?:long|large|many tokens)|exceeds? .{0,40}(?:context|tokens|length)|n_ctx|"
    r"input length|prompt length|number of tokens|`?max_new_tokens`? must be <=|must have less than \d+ tokens",
    re.IGNORECASE,
)
_NUMBER = (
    r"(\d[\d,_]{2,11})(?!\d|\.\d)"
    r"(?!\s*(?:tokens?\s*)?(?:exceed|request|were|was|is (?:too|larger|greater|more)|>))"
)
_STATED = (
    re.compile(
        rf"maximum (?:context|model|sequence|input)[\w\s'-]{{0,30}}?(?:is|of|:)?\s*\(?{_NUMBER}", re.I
    ),
    re.compile(rf"context (?:length|size|window)\D{{0,20}}{_NUMBER}", re.I),
    re.compile(rf"(?:n_ctx|max_model_len|max_seq_len|num_ctx)\W{{0,5}}{_NUMBER}", re.I),
    re.compile(rf"max_new_tokens`? must be <= {_NUMBER}", re.I),
    re.compile(rf"{_NUMBER}\W{{0,3}}(?:tokens )?(?:permitted|allowed|at most|maximum)", re.I),
    re.compile(rf"(?:limit|permitted|allowed|at most|less than)(?: is| of|:)? {_NUMBER}", re.I),
)
#: A number behind one of these is what was asked for, or no length at all.
_NO_MAXIMUM = re.compile(r"code|error|status|request|got|given|sent|received|actual|exceed|contains", re.I)


@dataclass(frozen=True)
class Seen:
    """What is known of one probe on an endpoint.

    Attributes:
        tokens: How long the prompt was meant to be.
        failure: Why there is no answer; ``None``: there is one.
        counted_tokens: The server's own count of the prompt.
        least_tokens: The fewest that it counts where it has read all of the prompt; ``None``: its own count
            cannot be foreseen.
        room_tokens: The context that the server states, less what was to be generated.
        alive: Whether the server still answered afterwards.
        preemptions: How many requests the server preempted meanwhile; ``None``: it does not say.
    """

    tokens: int
    failure: Failure | None = None
    counted_tokens: int | None = None
    least_tokens: float | None = None
    room_tokens: int | None = None
    alive: bool = True
    preemptions: float | None = None


def classify(seen: Seen) -> ProbeOutcome | None:
    """Return what became of a probe; ``None``: a failure that says nothing about its length.

    What the server says comes before whether it answers: one that is busy with an abandoned prompt is
    slow to answer its own pages, and has not died.
    """
    if seen.failure is None:
        return _of_an_answer(seen)
    kind = seen.failure.error_type
    if kind is ErrorType.EMPTY_OUTPUT:
        # Nothing was generated. Only the server's count says that the prompt was read at all.
        return ProbeOutcome.SERVER_ERROR if seen.counted_tokens is None else _of_an_answer(seen)
    if kind is ErrorType.TIMEOUT:
        return ProbeOutcome.TIMEOUT
    if kind not in (ErrorType.REFUSED_INPUT, ErrorType.ENGINE_ERROR):
        return None
    if (named := _of_a_message(seen, kind, seen.failure.message)) is not None:
        return named
    if not seen.alive:
        return ProbeOutcome.SERVER_DIED
    return ProbeOutcome.SERVER_ERROR if kind is ErrorType.ENGINE_ERROR else None


def _of_a_message(seen: Seen, kind: ErrorType, message: str) -> ProbeOutcome | None:
    """Return what a server says that happened; ``None``: it names no cause."""
    if _MEMORY.search(message):
        return ProbeOutcome.OUT_OF_MEMORY
    if _DEAD.search(message):
        return ProbeOutcome.SERVER_DIED
    too_long = seen.room_tokens is not None and seen.tokens > seen.room_tokens
    if _LENGTH.search(message) or (kind is ErrorType.REFUSED_INPUT and too_long):
        return ProbeOutcome.REFUSED
    if _CACHE.search(message):
        return ProbeOutcome.CACHE_EXHAUSTED
    return ProbeOutcome.TIMEOUT if kind is ErrorType.ENGINE_ERROR and _SLOW.search(message) else None


def _of_an_answer(seen: Seen) -> ProbeOutcome:
    if None not in (seen.counted_tokens, seen.least_tokens) and seen.counted_tokens < seen.least_tokens:  # type: ignore[operator]
        return ProbeOutcome.TRUNCATED
    return ProbeOutcome.CACHE_EXHAUSTED if seen.preemptions else ProbeOutcome.HELD


def stated_maximum(
    message: str,
    *,
    held_tokens: int = 0,
    asked_tokens: int | None = None,
    repeated: Collection[int] = (),
) -> int | None:
    """Return the longest context that a refusal names; ``None``: none of its numbers can be that.

    Args:
        message: The server's words.
        held_tokens: What it has accepted: no maximum is smaller.
        asked_tokens: What it has refused, at most: no maximum is larger.
        repeated: What was asked for: a number that repeats it is not a maximum.

    >>> stated_maximum("This model's maximum context length is 8192 tokens. However, you requested 9000")
    8192
    """
    for pattern in _STATED:
        for found in pattern.finditer(message):
            if _NO_MAXIMUM.search(found.group(0)):
                continue
            tokens = int(re.sub(r"[,_]", "", found.group(1)))
            fits = held_tokens <= tokens and (asked_tokens is None or tokens <= asked_tokens)
            if fits and tokens not in repeated:
                return tokens
    return None
