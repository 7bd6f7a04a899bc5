"""How a server wants its requests written, where servers that speak the same API differ.

Some refuse ``stream_options``; reasoning models take ``max_completion_tokens`` for ``max_tokens`` and
no temperature but their own. A refusal says so in its text, and the next request is written otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure


@dataclass(frozen=True)
class Dialect:
    """What a request carries.

    Attributes:
        stream_options: Whether usage is asked for in the stream (``include_usage``).
        limit_field: What the limit of generated tokens is called.
        temperature: Whether a temperature is sent.
    """

    stream_options: bool = True
    limit_field: str = "max_tokens"
    temperature: bool = True

    def body(self, model: str, prompt: Mapping[str, Any], decoding: Mapping[str, Any]) -> dict[str, Any]:
        """Return the body of a streamed request.

        Args:
            model: Its name.
            prompt: ``{"messages": …}`` or ``{"prompt": …}``.
            decoding: ``max_tokens``, ``temperature`` and the like, by the names that kvlab uses.
        """
        body = {"model": model, **prompt, **self.decoding(decoding), "stream": True}
        return {**body, "stream_options": {"include_usage": True}} if self.stream_options else body

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the decoding parameters by the names, and in the selection, that this server takes."""
        names = {"max_tokens": self.limit_field}
        return {
            names.get(key, key): value
            for key, value in wanted.items()
            if self.temperature or key != "temperature"
        }

    def adapted(self, failure: Failure | None) -> "Dialect | None":
        """Return how to write a request that was refused; ``None``: nothing that is known here helps."""
        if failure is None or failure.error_type is not ErrorType.REFUSED_INPUT:
            return None
        message = failure.message.lower()
        if self.limit_field == "max_tokens" and "max_completion_tokens" in message:
            return replace(self, limit_field="max_completion_tokens")
        if self.stream_options and ("stream_options" in message or "include_usage" in message):
            return replace(self, stream_options=False)
        if self.temperature and "temperature" in message:
            return replace(self, temperature=False)
        return None

    @property
    def words(self) -> str | None:
        """What is written otherwise than by most servers; ``None``: nothing."""
        found = [] if self.stream_options else ["without stream_options"]
        found += [] if self.limit_field == "max_tokens" else [f"{self.limit_field} for max_tokens"]
        found += [] if self.temperature else ["without a temperature, so the server's own applies"]
        return "; ".join(found) or None
