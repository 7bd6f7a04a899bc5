"""What a server's error says, and what to change in a request that it refuses for a field of its body.

Servers of one API differ in what they take: reasoning models want ``max_completion_tokens`` and the
default temperature, older ones know no ``stream_options``. Their refusal names the field. Whoever has the
first request refused asks `adapt` for other names, makes a `Target` with them, and says what was changed:
without ``temperature: 0`` two answers to one prompt may differ.
"""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvlab.evidence import as_tokens
from kvlab.taxonomy import ErrorType, from_http_status

if TYPE_CHECKING:
    from kvlab.timing.request import Failure

#: How much of what a server says is kept for a message before secrets are taken out and it is cut.
MOST_OF_A_MESSAGE = 100_000

#: Fields without which a request still asks the same; never the prompt, the model, or a salt that isolates.
OPTIONAL = ("stream_options", "temperature", "seed", "top_p", "top_k", "min_tokens", "ignore_eos")
_REFUSED = re.compile(
    r"unsupported|not supported|does(?: not|n't) support|not permitted|not allowed|unrecogni[sz]ed|unknown"
    r"|unexpected|extra (?:inputs|fields)|invalid (?:field|parameter|argument)|forbidden|only the default",
    re.IGNORECASE,
)


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


def adapt(
    failure: "Failure | None", body: Mapping[str, Any], renames: Mapping[str, str | None]
) -> dict[str, str | None] | None:
    """Return the names that a refusal asks for, to be tried once more.

    Args:
        failure: What became of the request.
        body: The request's body as it was before ``renames``.
        renames: Those that it was sent with.

    Returns:
        All renames, the new one among them, for `Target.renames`; ``None``: the refusal names nothing that
        can be changed, or what it names was changed already.
    """
    if failure is None or failure.error_type is not ErrorType.REFUSED_INPUT:
        return None
    words = failure.message
    if "max_completion_tokens" in words and "max_tokens" in body and "max_tokens" not in renames:
        return {**renames, "max_tokens": "max_completion_tokens"}
    if not _REFUSED.search(words):
        return None
    for name in OPTIONAL:
        if name in body and name not in renames and re.search(rf"\b{name}\b", words):
            return {**renames, name: None}
    return None
