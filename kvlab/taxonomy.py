"""Why a request failed. The labels are stable: databases and reports hold them."""

from enum import StrEnum


class ErrorType(StrEnum):
    """Failures of the serving system (what the model answered is scored apart)."""

    RATE_LIMITED = "RATE_LIMITED"
    TIMEOUT = "TIMEOUT"
    ENGINE_ERROR = "ENGINE_ERROR"
    REFUSED_INPUT = "REFUSED_INPUT"
    EMPTY_OUTPUT = "EMPTY_OUTPUT"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    UNKNOWN_FAILURE = "UNKNOWN_FAILURE"


#: Failures that another attempt can mend.
RETRYABLE = frozenset({ErrorType.RATE_LIMITED, ErrorType.TIMEOUT, ErrorType.ENGINE_ERROR})


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
