"""What to change in a request that a server refuses for a field of its body.

Servers of one API differ in what they take: reasoning models want ``max_completion_tokens`` and the
default temperature, older ones know no ``stream_options``. Their refusal names the field. Whoever has the
first request refused asks `adapt` for other names, makes a `Target` with them, and says what was changed:
without ``temperature: 0`` two answers to one prompt may differ.
"""

import re
from collections.abc import Mapping
from typing import Any

from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure

#: Fields without which a request still asks the same; never the prompt, the model, or a salt that isolates.
OPTIONAL = ("stream_options", "temperature", "seed", "top_p", "top_k", "min_tokens", "ignore_eos")
_REFUSED = re.compile(
    r"unsupported|not supported|does(?: not|n't) support|not permitted|not allowed|unrecogni[sz]ed|unknown"
    r"|unexpected|extra (?:inputs|fields)|invalid (?:field|parameter|argument)|forbidden|only the default",
    re.IGNORECASE,
)


def adapt(
    failure: Failure | None, body: Mapping[str, Any], renames: Mapping[str, str | None]
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
