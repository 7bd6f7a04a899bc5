"""How busy the machine was with other work while something was measured.

The same run can be four times slower beside another process, and nothing in its own stamps says why.
So each trial keeps what share of the machine's processor time others took, and what the hypervisor
took away (steal).
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psutil

#: From so much of the machine's time in foreign hands on, a figure is worth a warning.
BUSY_SHARE = 0.2
#: Shorter intervals hold only a few ticks of the kernel's clock (10 ms each, on every core).
SHORTEST_S = 0.05
_IDLE = ("idle", "iowait")
# Linux counts a guest's time in `user`, too.
_COUNTED_TWICE = ("guest", "guest_nice")


@dataclass(frozen=True)
class MachineLoad:
    """What the processors did during an interval, as shares of all their time (0 to 1).

    Attributes:
        interval_s: Its length in seconds.
        foreign_share: Taken by processes that are not the measured ones; ``None`` with a ``reason``.
        own_share: Taken by the measured ones.
        steal_share: Taken away by the hypervisor; ``None``: the system does not say.
        reason: Why a share is missing.
    """

    interval_s: float
    foreign_share: float | None = None
    own_share: float | None = None
    steal_share: float | None = None
    reason: str | None = None

    @property
    def busy(self) -> bool:
        """Whether others took so much that a time measured meanwhile is in doubt."""
        return (self.foreign_share or 0.0) + (self.steal_share or 0.0) >= BUSY_SHARE

    @property
    def words(self) -> str:
        """In one clause, for a note beside a figure."""
        if self.foreign_share is None:
            return f"the load of the machine is unknown ({self.reason})"
        stolen = f", {self.steal_share:.0%} stolen by the hypervisor" if self.steal_share else ""
        return f"other processes took {self.foreign_share:.0%} of the machine's processors{stolen}"


class LoadWatch:
    """Measures the load of the machine over a ``with`` block; then `load` has it.

    Args:
        pids: Roots of process trees that belong to what is measured, beside this process's own: the
            server's, say. One that ends meanwhile is counted as far as it was seen.
    """

    def __init__(self, pids: Iterable[int] = ()) -> None:
        self._roots = {psutil.Process().pid, *pids}
        self.load = MachineLoad(0.0, reason="not measured yet")

    def __enter__(self) -> Self:
        self._began, self._before = time.monotonic(), self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.load = self._difference(time.monotonic() - self._began, self._read())

    def _read(self) -> tuple[dict[str, float], dict[tuple[int, float], float]] | None:
        try:
            return _machine(), _own(self._roots)
        except (psutil.Error, OSError):
            return None

    def _difference(
        self, interval_s: float, after: tuple[dict[str, float], dict[tuple[int, float], float]] | None
    ) -> MachineLoad:
        if self._before is None or after is None:
            return MachineLoad(interval_s, reason="the system does not show its processor times")
        if interval_s < SHORTEST_S:
            return MachineLoad(interval_s, reason=f"{interval_s * 1e3:.0f} ms are too short to count ticks")
        old, new = self._before[0], after[0]
        spent = {name: max(0.0, new[name] - old.get(name, 0.0)) for name in new}
        total = sum(spent.values())
        if not total > 0 or not math.isfinite(total):
            return MachineLoad(interval_s, reason="the processors' clocks stood still")
        steal = spent.get("steal")
        busy = total - sum(spent.get(name, 0.0) for name in (*_IDLE, "steal"))
        own = sum(max(0.0, used - self._before[1].get(who, 0.0)) for who, used in after[1].items())
        return MachineLoad(
            interval_s,
            foreign_share=min(1.0, max(0.0, (busy - own) / total)),
            own_share=min(1.0, own / total),
            steal_share=None if steal is None else steal / total,
        )


def _machine() -> dict[str, float]:
    times: dict[str, Any] = psutil.cpu_times()._asdict()
    return {name: float(value) for name, value in times.items() if name not in _COUNTED_TWICE}


def _own(roots: Iterable[int]) -> dict[tuple[int, float], float]:
    """Return the processor time of each process of the trees so far, ended and waited-for children included."""
    found: dict[tuple[int, float], float] = {}
    for root in roots:
        try:
            members = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
        except psutil.Error:
            continue
        for member in members:
            try:
                times = member.cpu_times()
                used = times.user + times.system + times.children_user + times.children_system
                found[member.pid, member.create_time()] = used
            except psutil.Error:
                continue
    return found
