"""The protocol of all memory samplers, and those that need no NVIDIA library."""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import psutil

Measure = Literal["rss", "pss", "uss"]

#: Finding a tree's processes takes a look at all of the machine's, so it is not done for every reading.
TREE_S = 1.0


class Reading(NamedTuple):
    """One figure at one moment.

    Attributes:
        series: What is measured and of what, such as ``process_rss`` or ``nvml_device:0``.
        used_bytes: How much is in use.
        total_bytes: How much there is; ``None`` where that is unknown or has no meaning.
    """

    series: str
    used_bytes: int
    total_bytes: int | None = None


class Sampler(Protocol):
    """Reads memory. Called from one thread at a time; never raises for what it cannot see."""

    @property
    def name(self) -> str:
        """What it reads, for people."""

    @property
    def reason(self) -> str | None:
        """Why it gives no readings (any more); ``None``: it does."""

    def read(self) -> list[Reading]:
        """Return what is in use now; empty, with a ``reason``, where that cannot be seen."""

    def close(self) -> None:
        """Give back what reading needs."""


class Unavailable:
    """No memory can be seen: a remote endpoint, an engine of another machine."""

    def __init__(self, reason: str) -> None:
        self.name, self.reason = "none", reason

    def read(self) -> list[Reading]:
        """Return nothing."""
        return []

    def close(self) -> None:
        """Do nothing."""


class ProcessTree:
    """The memory of a process and all its descendants, summed.

    ``rss`` (resident set size) is one cheap read a process, and counts a page that two processes
    share twice: two servers that were forked share their libraries. ``pss`` (proportional set size)
    splits shared pages, so that its sum is right, but makes the kernel walk the page tables while
    the process waits: for a look at rest, not for ten a second. ``uss`` leaves shared pages out.
    Both exist on Linux (``/proc/<pid>/smaps_rollup``); elsewhere the reason says so. A process that
    joins the tree is seen a second later at most.
    """

    def __init__(self, pid: int, *, measure: Measure = "rss", prefix: str = "process") -> None:
        """Watch the tree below ``pid``, which need not exist any more: then there is a reason.

        ``prefix`` names the series (``<prefix>_<measure>``), where two trees share a timeline.
        """
        self.name = f"{measure} of process {pid} and its descendants"
        self.reason: str | None = None
        self._measure, self._series, self._root = measure, f"{prefix}_{measure}", None
        self._members: list[psutil.Process] = []
        self._look_again_s = 0.0
        try:
            self._root = psutil.Process(pid)  # with its start: a later process of that number is another
        except psutil.Error:
            self.reason = f"there is no process {pid}"

    def read(self) -> list[Reading]:
        """Return one reading, ``<prefix>_<measure>``."""
        if self._root is None:
            return []
        try:
            if not self._root.is_running() or self._root.status() == psutil.STATUS_ZOMBIE:
                raise psutil.NoSuchProcess(self._root.pid)
            if time.monotonic() >= self._look_again_s:
                self._members = [self._root, *self._root.children(recursive=True)]
                self._look_again_s = time.monotonic() + TREE_S
        except psutil.Error:
            self.reason = f"process {self._root.pid} has ended"
            self._root = None
            return []
        found = [size for member in self._members if (size := self._size(member)) is not None]
        if not found:
            self.reason = f"{self._measure} cannot be read here: not permitted, or not known on this system"
            return []
        self.reason = None
        return [Reading(self._series, sum(found))]

    def _size(self, process: psutil.Process) -> int | None:
        with contextlib.suppress(psutil.Error):  # it has just ended, or belongs to somebody else
            if self._measure == "rss":
                return int(process.memory_info().rss)
            size = getattr(process.memory_full_info(), self._measure, None)
            return None if size is None else int(size)
        return None

    def close(self) -> None:
        """Do nothing."""


class TorchAllocator:
    """What torch's caching allocator holds on a CUDA device of this process.

    ``torch_allocated`` is what tensors use, ``torch_reserved`` what the allocator has taken from the
    driver for them (``torch.cuda.memory_allocated`` and ``memory_reserved``). Neither counts the CUDA
    context, which NVML does. torch has no such figures for a CPU.

    Args:
        device: Index of the device.
        cuda: ``torch.cuda``; looked up where torch is loaded already, and never imported.
    """

    def __init__(self, device: int = 0, cuda: Any = None) -> None:  # noqa: ANN401 - torch.cuda
        self.name, self.reason = f"torch allocator of device {device}", None
        self._device = device
        self._cuda: Any = cuda
        if cuda is None and "torch" in sys.modules:
            self._cuda = sys.modules["torch"].cuda
        self.reason = self._why_not()

    def _why_not(self) -> str | None:
        if self._cuda is None:
            return "torch is not loaded in this process"
        if not self._cuda.is_available():
            return "torch sees no CUDA device, and counts no memory of a CPU"
        count = int(self._cuda.device_count())
        return None if self._device < count else f"torch sees {count} devices, none of index {self._device}"

    def read(self) -> list[Reading]:
        """Return what is allocated and what is reserved."""
        if self.reason is not None:
            return []
        figures: dict[str, Callable[[int], int]] = {
            "torch_allocated": self._cuda.memory_allocated,
            "torch_reserved": self._cuda.memory_reserved,
        }
        return [Reading(f"{name}:{self._device}", int(read(self._device))) for name, read in figures.items()]

    def close(self) -> None:
        """Do nothing."""
