"""The one clock of all measurements, and how to know that nobody watched it.

``time.perf_counter_ns`` is monotonic and, on Linux and macOS, the same for all processes of a
machine; it says nothing about the date. An `Anchor` ties it to the date, once per session.
"""

import time
from dataclasses import dataclass

now_ns = time.perf_counter_ns

#: A process that waits wakes at least this often; what it oversleeps, it did not run.
BEAT_S = 0.02
#: Oversleeping less than this is the scheduling of a busy machine.
LATE_NS = 25_000_000


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


class Watch:
    """Adds up how long this process did not run although it had nothing to wait for.

    A stopped or suspended process, a garbage collection, a busy machine: what arrives meanwhile is stamped
    when it is read, so the stamp says when this client came back. Whoever waits calls `beat` whenever a
    wait of at most ``BEAT_S`` is over. A suspended machine stops the monotonic clock; there the clock that
    goes on (CLOCK_BOOTTIME, Linux) tells.

    Attributes:
        stalled_ns: All of it so far.
    """

    def __init__(self) -> None:
        self.stalled_ns = 0
        self._last_ns = now_ns()
        self._asleep_ns = _asleep_ns()

    def start(self) -> None:
        """Begin to watch: what was before is nobody's."""
        self._last_ns, self._asleep_ns = now_ns(), _asleep_ns()

    def beat(self, allowed_ns: int = int(BEAT_S * 1e9)) -> None:
        """Note that this process runs, after a wait that was allowed to take so long."""
        t_ns = now_ns()
        late_ns = t_ns - self._last_ns - allowed_ns
        if late_ns > LATE_NS:
            self.stalled_ns += late_ns
            self._last_ns = t_ns
            self._wake()
            return
        self._last_ns = t_ns

    def stop(self) -> None:
        """End to watch: was the machine asleep?"""
        self._wake()

    def _wake(self) -> None:
        asleep_ns = _asleep_ns()
        if asleep_ns - self._asleep_ns > LATE_NS:
            self.stalled_ns += asleep_ns - self._asleep_ns
        self._asleep_ns = asleep_ns


def _asleep_ns() -> int:
    """Return how long the machine has been suspended since it started, as far as its clocks tell."""
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return 0
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
