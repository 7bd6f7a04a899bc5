"""The one clock of all measurements.

``time.perf_counter_ns`` is monotonic and, on Linux and macOS, the same for all processes of a
machine; it says nothing about the date. An `Anchor` ties it to the date, once per session.
"""

import time
from dataclasses import dataclass

now_ns = time.perf_counter_ns


@dataclass(frozen=True)
class Anchor:
    """One moment on both clocks: ``perf_ns`` (monotonic) and ``unix_ns`` (date), in nanoseconds."""

    perf_ns: int
    unix_ns: int

    @classmethod
    def take(cls) -> "Anchor":
        """Read both clocks, the monotonic one on either side of the other."""
        before = time.perf_counter_ns()
        unix = time.time_ns()
        after = time.perf_counter_ns()
        return cls(perf_ns=(before + after) // 2, unix_ns=unix)
