"""Asking a server for one token, patiently: for what is not measured, but must be answered."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvlab.endpoints.connect import Connection
from kvlab.endpoints.counter import Prompt
from kvlab.errors import ServerError
from kvlab.evidence import as_tokens, usage_evidence
from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure, Measurement

#: Waits between tries, in seconds: for a busy server, and for one that fails.
_BUSY_S, _FAILED_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0), (0.2, 1.0)
_PATIENCE_S = 60.0
#: A reasoning model's first token may be one that its server swallows, and then no text comes.
_MORE_TOKENS = 16


@dataclass
class Asker:
    """Makes small requests; learns on the way how this server wants them written.

    Attributes:
        max_tokens: How many tokens are asked for: one, or more where one shows no text.
    """

    connection: Connection
    max_tokens: int = 1
    sleep: Callable[[float], None] = time.sleep

    def ask(self, prompt: Prompt, **extra: Any) -> Measurement:  # noqa: ANN401 - JSON
        """Return what came of a request, after trying again where that may help.

        A request that is refused for how it is written is written otherwise, and so are all later ones
        of this connection (`Connection.dialect`).
        """
        measured = self._patiently(prompt, extra)
        for _ in range(4):
            other = self.connection.dialect.adapted(measured.failure)
            if other is None:
                break
            self.connection.dialect = other
            measured = self._patiently(prompt, extra)
        if self.max_tokens == 1 and is_empty(measured.failure):
            self.max_tokens = _MORE_TOKENS
            measured = self._patiently(prompt, extra)
        return measured

    def usage(self, prompt: Prompt) -> tuple[int | None, int | None]:
        """Return the prompt tokens and cached tokens that a request's answer reports.

        Raises:
            ServerError: There is no answer; the message is the server's.
        """
        measured = self.ask(prompt)
        if not answered(measured) and measured.failure is not None:
            reason = " ".join(measured.failure.message.split())[:200]
            raise ServerError(f"a request of one token failed: {measured.failure.error_type}: {reason}")
        return usage_evidence(measured.usage)[0], self.cached(measured)

    def cached(self, measured: Measurement) -> int | None:
        """Return the cached tokens that an answer reports, in the configured field or in its usage."""
        if self.connection.target.field_path and measured.generation is not None:
            return as_tokens(measured.generation.field_value)
        return usage_evidence(measured.usage)[1]

    def _patiently(self, prompt: Prompt, extra: dict[str, Any]) -> Measurement:
        end, tries = time.monotonic() + _PATIENCE_S, 0
        while True:
            measured = self._once(prompt, extra)
            failure = measured.failure
            pause = None if failure is None else _pause_s(failure, tries)
            if pause is None or time.monotonic() + pause > end:
                return measured
            self.sleep(pause)
            tries += 1

    def _once(self, prompt: Prompt, extra: dict[str, Any]) -> Measurement:
        connection = self.connection
        path = "/chat/completions" if "messages" in prompt else "/completions"
        decoding = {"max_tokens": self.max_tokens, "temperature": 0}
        body = {**connection.dialect.body(connection.model, prompt, decoding), **extra}
        measured = connection.client.measure(path, body, f"probe-{secrets.token_hex(4)}")
        return measured.redacted(connection.settings.redactor)


def is_empty(failure: Failure | None) -> bool:
    """Whether the server answered, and only without text."""
    return failure is not None and failure.error_type is ErrorType.EMPTY_OUTPUT


def answered(measured: Measurement) -> bool:
    """Whether the server has read the prompt: it answered, with text or without."""
    return measured.failure is None or is_empty(measured.failure)


def _pause_s(failure: Failure, tries: int) -> float | None:
    """Return how long to wait before another try; ``None``: it would not help."""
    busy = failure.error_type is ErrorType.RATE_LIMITED or failure.http_status == 503
    waits = _BUSY_S if busy else _FAILED_S if failure.error_type is ErrorType.ENGINE_ERROR else ()
    if tries >= len(waits):
        return None
    return max(waits[tries], failure.retry_after_s or 0.0)
