"""What a server's error says, in the forms in which servers word one, and what kind of error that is."""

import json
from typing import Any

from kvlab.evidence import as_tokens
from kvlab.taxonomy import ErrorType, from_http_status

#: How much of what a server says is kept for a message before secrets are taken out and it is cut.
MOST_OF_A_MESSAGE = 100_000


def error_message(error: Any) -> str:  # noqa: ANN401 - JSON
    """Return the words of an error object, in any of the forms in which servers send one."""
    if isinstance(error, dict):
        error = next((error[name] for name in ("message", "detail", "error") if error.get(name)), error)
    words = error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    return words[:MOST_OF_A_MESSAGE]


def error_type(error: Any) -> ErrorType:  # noqa: ANN401 - JSON
    """Return what kind of error an error object says it is: by its code, which is an HTTP status, or its type."""
    if not isinstance(error, dict):
        return ErrorType.ENGINE_ERROR
    code = as_tokens(error.get("code"))
    if code is not None and 400 <= code < 600:
        return from_http_status(code)
    words = f"{error.get('type')} {error.get('code')}".lower().replace("_", "")
    if "ratelimit" in words:
        return ErrorType.RATE_LIMITED
    refused = ("invalidrequest", "badrequest", "contextsize", "contextlength", "unsupported", "notfound")
    return ErrorType.REFUSED_INPUT if any(word in words for word in refused) else ErrorType.ENGINE_ERROR
