"""Why a request failed. The labels are stable: databases and reports hold them."""

from enum import StrEnum


class ErrorType(StrEnum):
    """Failures of the serving system, then those that show in the answer (whether it is right is scored apart)."""

    RATE_LIMITED = "RATE_LIMITED"
    TIMEOUT = "TIMEOUT"
    ENGINE_ERROR = "ENGINE_ERROR"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    REFUSED_INPUT = "REFUSED_INPUT"
    CLIENT_STALLED = "CLIENT_STALLED"  # this process stood still: its times are its own, not the server's

    EMPTY_OUTPUT = "EMPTY_OUTPUT"
    INPUT_TRUNCATED = "INPUT_TRUNCATED"
    REFUSAL = "REFUSAL"
    DEGENERATE_REPETITION = "DEGENERATE_REPETITION"
    TRUNCATED = "TRUNCATED"
    FORMAT_ERROR = "FORMAT_ERROR"

    UNKNOWN_FAILURE = "UNKNOWN_FAILURE"


#: Failures after which another attempt may succeed.
RETRYABLE = frozenset(
    {ErrorType.RATE_LIMITED, ErrorType.TIMEOUT, ErrorType.ENGINE_ERROR, ErrorType.CLIENT_STALLED}
)

#: HTTP answers that every other request would get, too: the key, the account, the address or the model is wrong.
REFUSES_ALL = frozenset({401, 402, 403, 404})


def from_http_status(status: int) -> ErrorType:
    """Return the label of a non-200 answer."""
    if status == 429:
        return ErrorType.RATE_LIMITED
    if status in (408, 504):
        return ErrorType.TIMEOUT
    if status >= 500:
        return ErrorType.ENGINE_ERROR
    if 400 <= status < 500:
        return ErrorType.REFUSED_INPUT
    return ErrorType.UNKNOWN_FAILURE
