"""How long a part may go on trying: on a busy machine it reports what it came to, and that it was not all."""

from __future__ import annotations

import time

_began, _seconds = time.monotonic(), float("inf")


def give(seconds: float) -> None:
    """Begin now, with so many seconds."""
    global _began, _seconds
    _began, _seconds = time.monotonic(), seconds


def is_spent(share: float = 1.0) -> bool:
    """Return whether so much of it has gone by."""
    return time.monotonic() - _began > share * _seconds
