"""What is committed together: whatever arrives within a quarter of a second, or enough to be worth it."""

import time
from collections.abc import Callable
from typing import Any, Protocol

COMMIT_S = 0.25  # at most so long after its arrival a row is on its way to the disk
COMMIT_ROWS = 500


class Source(Protocol):
    """Where messages come from (`kvlab.load.inbox.Inbox`)."""

    def get(self, timeout_s: float) -> Any:  # noqa: ANN401 - whatever was put
        """Return the next message, or raise TimeoutError."""


class Batches:
    """Puts messages together: lists of exchanges, at the end what the generator says, and ``None``.

    Attributes:
        said: What the generator has said of itself; ``None``: nothing yet.
    """

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source, self._clock = source, clock
        self._ended = False
        self.said: dict[str, Any] | None = None

    def next(self) -> list[Any] | None:
        """Return the exchanges that have arrived within `COMMIT_S`; ``None`` at the end."""
        if self._ended:
            return None
        batch: list[Any] = []
        deadline = self._clock() + COMMIT_S
        while len(batch) < COMMIT_ROWS and (left := deadline - self._clock()) > 0:
            try:
                message = self._source.get(left)
            except TimeoutError:
                break
            if message is None:
                self._ended = True
                break
            if isinstance(message, dict):
                self.said = message
            else:
                batch += message
        return batch
