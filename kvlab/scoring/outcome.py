"""What went wrong with an answer, or with the request for it.

The labels are ``kvlab.taxonomy.ErrorType``. Each says what can be seen, in a fixed order; what
cannot be decided is UNKNOWN_FAILURE, never a guess. A label is no score: an answer that was cut off
at its token limit may hold the right number.
"""

import re
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from kvlab.taxonomy import ErrorType, from_http_status

#: Finish reasons of an answer that ended by itself; here and below in small letters, as each server means its own.
FINISHED = frozenset(
    {"stop", "eos", "eos_token", "end_turn", "stop_sequence", "stop_token", "complete", "completed"}
)
#: Finish reasons of an answer that reached its limit.
CUT_OFF = frozenset(
    {
        "length",
        "max_tokens",
        "max_new_tokens",
        "max_output_tokens",
        "max_length",
        "model_length",
        "model_context_window_exceeded",
    }
)
#: Finish reasons of an answer that the server withheld.
WITHHELD = frozenset(
    {"content_filter", "refusal", "safety", "recitation", "blocklist", "prohibited_content", "spii"}
)

#: A repetition is degenerate from this many repeats of a unit of at most this many tokens, …
MIN_REPEATS, MAX_UNIT_TOKENS = 4, 16
#: … if they are at least this many tokens and at least half of the answer.
MIN_REPEATED_TOKENS, MIN_REPEATED_SHARE = 16, 0.5

# Only at the very beginning, and only with a verb of helping: "I cannot find it in the text" answers.
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]?m|i am|we['’]?re|we are)?\s*(?:very |so )?sorry\W+(?:but\s+)?|as an ai[\w\s]*,\s*|unfortunately,?\s+)?"
    r"(?:i|we)\s+(?:can['’]?t|cannot|can not|won['’]?t|will not|am unable to|['’]?m unable to|am not able to|are unable to)"
    r"\s+(?:help|assist|comply|fulfil|fulfill|engage|provide assistance|do that|continue with (?:this|that))\b"
    r"|\W*(?:很?抱歉|对不起|不好意思)\W*我(?:无法|不能)(?:帮助|协助|提供|满足|回答(?:这个|该|您的|此)(?:问题|请求))",
    re.IGNORECASE,
)
_OUT_OF_MEMORY = re.compile(
    r"out of memory|cannot allocate memory|can't allocate memory|OutOfMemoryError", re.I
)
_RATE_LIMITED = re.compile(r"\brate.?limit|too many requests", re.IGNORECASE)
_TIMEOUT = re.compile(r"\btimed?.?out\b|\bdeadline exceeded\b", re.IGNORECASE)
_ENGINE = re.compile(r"connection (?:refused|reset|aborted|error)|internal server error|bad gateway", re.I)


class Outcome(NamedTuple):
    """A label and, in a few words, what it was seen by."""

    error_type: ErrorType
    reason: str


def classify(
    text: str,
    finish_reason: str | None,
    *,
    token_ids: Sequence[int] | None = None,
    sent_tokens: int | None = None,
    seen_tokens: int | None = None,
    answer_pattern: str | None = None,
) -> Outcome | None:
    """Say what went wrong with an answer that arrived; None where nothing did.

    The first that applies: EMPTY_OUTPUT, INPUT_TRUNCATED, REFUSAL, DEGENERATE_REPETITION,
    UNKNOWN_FAILURE (a finish reason that is missing or not known), TRUNCATED, FORMAT_ERROR (only of
    answers that ended by themselves: what is cut off may have been about to get there).

    Args:
        text: What the model wrote.
        finish_reason: As the engine reports it.
        token_ids: Of the answer; without them repetition is looked for among words.
        sent_tokens: The prompt's length as it was sent.
        seen_tokens: Its length as the engine reports it; fewer than sent means that the engine cut it.
        answer_pattern: A regular expression that an answer of the right form matches somewhere.
    """
    if not text.strip():
        return Outcome(ErrorType.EMPTY_OUTPUT, f"no visible text (finish_reason {finish_reason})")
    if sent_tokens is not None and seen_tokens is not None and seen_tokens < sent_tokens:
        return Outcome(ErrorType.INPUT_TRUNCATED, f"{seen_tokens} of {sent_tokens} prompt tokens were read")
    reason = (finish_reason or "").lower()
    if reason in WITHHELD:
        return Outcome(ErrorType.REFUSAL, f"finish_reason {finish_reason}")
    if _REFUSAL.match(text):
        return Outcome(ErrorType.REFUSAL, "begins with a refusal to help")
    repeated = repetition(text.split() if token_ids is None else token_ids)
    if repeated is not None:
        return Outcome(ErrorType.DEGENERATE_REPETITION, repeated)
    if reason in CUT_OFF:
        return Outcome(ErrorType.TRUNCATED, f"finish_reason {finish_reason}")
    if reason not in FINISHED:
        return Outcome(ErrorType.UNKNOWN_FAILURE, f"finish_reason {finish_reason!r} is not known")
    if answer_pattern is not None and not re.search(answer_pattern, text):
        return Outcome(ErrorType.FORMAT_ERROR, f"nothing matches {answer_pattern}")
    return None


def classify_error(error: BaseException | str | None, http_status: int | None = None) -> Outcome:
    """Say why a request gave no answer.

    The first that applies: OUT_OF_MEMORY, the HTTP status, TIMEOUT, RATE_LIMITED, ENGINE_ERROR,
    else UNKNOWN_FAILURE.

    Args:
        error: The exception, or the message that is left of it.
        http_status: Of the answer, where there was one other than 200.
    """
    kinds = (
        " ".join(kind.__name__ for kind in type(error).__mro__) if isinstance(error, BaseException) else ""
    )
    message = str(error) if error is not None else ""
    reason = f"{type(error).__name__}: {message}" if kinds else message or f"HTTP {http_status}"
    return Outcome(_error_type(kinds, message, http_status), reason[:200])


def _error_type(kinds: str, message: str, http_status: int | None) -> ErrorType:
    if "MemoryError" in kinds or _OUT_OF_MEMORY.search(f"{kinds} {message}"):
        return ErrorType.OUT_OF_MEMORY
    if http_status is not None and http_status != 200:
        return from_http_status(http_status)
    # Class names stand in for httpx's and the engines' own classes, which this module need not import.
    if "Timeout" in kinds or _TIMEOUT.search(message):
        return ErrorType.TIMEOUT
    if _RATE_LIMITED.search(message):
        return ErrorType.RATE_LIMITED
    if any(name in kinds for name in ("ConnectionError", "TransportError")) or _ENGINE.search(message):
        return ErrorType.ENGINE_ERROR
    return ErrorType.UNKNOWN_FAILURE


def repetition(tokens: Sequence[Hashable]) -> str | None:
    """Return how the end of an answer repeats itself; None where it does not, or not enough to say so."""
    total = len(tokens)
    for unit in range(1, MAX_UNIT_TOKENS + 1):
        run = 0
        while run < total - unit and tokens[total - 1 - run] == tokens[total - 1 - run - unit]:
            run += 1
        repeated = run + unit
        enough = repeated >= max(MIN_REPEATS * unit, MIN_REPEATED_TOKENS)
        if run and enough and repeated >= MIN_REPEATED_SHARE * total:
            return f"the last {repeated} of {total} tokens repeat {unit}"
    return None
