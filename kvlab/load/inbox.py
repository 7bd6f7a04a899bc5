"""What has arrived and is not yet worked on, bounded: a full inbox makes the sender wait."""

import threading
from collections import deque
from typing import Any


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
