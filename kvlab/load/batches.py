"""What has arrived and is not yet stored, bounded; and what is committed together.

That is whatever arrives within a quarter of a second, or enough to be worth it. A full inbox makes the
generator wait, whose lag says so.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

COMMIT_S = 0.25  # at most so long after its arrival a row is on its way to the disk
COMMIT_ROWS = 500


class Source(Protocol):
    """Where messages come from (`Inbox`)."""

    def get(self, timeout_s: float) -> Any:  # noqa: ANN401 - whatever was put
        """Return the next message, or raise TimeoutError."""


class Inbox:
    """A queue between two threads that holds about ``most_bytes``: one message more than fits, at most."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._messages: deque[tuple[Any, int]] = deque()
        self._changed = threading.Condition()
        self.waiting_bytes = 0

    def put(self, message: object, size_bytes: int) -> None:
        """Add a message, once there is room."""
        with self._changed:
            self._changed.wait_for(lambda: self.waiting_bytes < self._most_bytes)
            self._messages.append((message, size_bytes))
            self.waiting_bytes += size_bytes
            self._changed.notify_all()

    def get(self, timeout_s: float) -> Any:  # noqa: ANN401 - whatever was put
        """Return the oldest message.

        Raises:
            TimeoutError: None has come in time.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._messages), timeout_s):
                raise TimeoutError
            message, size_bytes = self._messages.popleft()
            self.waiting_bytes -= size_bytes
            self._changed.notify_all()
            return message


class Batches:
    """Puts messages together: lists of exchanges, at the end what the generator says, and ``None``.

    Attributes:
        said: What the generator has said of itself; ``None``: nothing yet.
    """

    def __init__(self, source: Source, clock: Callable[[], float] = time.monotonic) -> None:
        self._source, self._clock = source, clock
        self._ended = False
        self.last_report: dict[str, Any] | None = None

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
                self.last_report = message
            else:
                batch += message
        return batch
