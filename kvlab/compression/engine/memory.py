"""The most memory that a piece of work had in use, less what was in use before."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """What was measured.

    Attributes:
        bytes: The growth; None: not known.
        reason: How it was measured, or why it was not.
    """

    bytes: int | None = None
    reason: str = "the work did not end"


@contextmanager
def watch(device: str) -> Iterator[Peak]:
    """Measure the peak of what is done meanwhile, with no thread beside it.

    On a GPU, torch's own peak counter is reset and read. On Linux with glibc, the kernel's (``VmHWM``)
    is, after the allocator has given back what it held free: else that would be used again, and no
    growth be seen. Elsewhere there is none.

    Args:
        device: ``cuda`` or ``cpu``.
    """
    peak = Peak()
    if device == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated() - before
        peak.reason = "torch.cuda.max_memory_allocated, less what was allocated before"
        return
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        _CLEAR.write_text("5")  # sets the peak to what is resident now
        before = _resident("VmRSS")
    except (OSError, ValueError, AttributeError) as error:
        peak.reason = f"the system does not count it: {type(error).__name__}"
        yield peak
        return
    yield peak
    grown = _resident("VmHWM") - before
    peak.bytes = grown if grown > 0 else None
    peak.reason = "peak resident memory of the process, less what was resident before"
    if peak.bytes is None:
        peak.reason = "the process had enough resident memory already: no growth was seen"


def _resident(key: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{_STATUS} has no {key}")
