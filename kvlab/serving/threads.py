"""How many threads an engine gets, and how they wait for each other.

The threads of a matrix product meet at a barrier after each layer. By default they spin there: beside
another busy process, the one that lost its core keeps all others spinning, and generation is up to
thirty times slower. Waiting passively costs nothing on a quiet machine, and a thread more than there
are free cores costs everywhere.
"""

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

import psutil

_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_LOOK_S = 0.2
#: Read by libgomp and libiomp when they are loaded: set before torch is imported.
CHOSEN = (
    "KVLAB_THREADS_CHOSEN"  # the number is ours, so it makes no other server (`launch.ServerSpec.digest`)
)
PASSIVE = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}


def usable_cores(quota: Path = _QUOTA) -> int:
    """Return how many cores this process may use: by its affinity, and by its container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        limit, period = quota.read_text().split()[:2]
        return max(1, min(cores, math.ceil(int(limit) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no quota is written `max`
        return cores


def free_cores(busy_share: float | None = None) -> int:
    """Return how many cores other processes leave, at least one.

    Args:
        busy_share: Share of all the machine's processor time that is taken; ``None``: look for a moment.
    """
    taken = psutil.cpu_percent(interval=_LOOK_S) / 100 if busy_share is None else busy_share
    return max(1, min(usable_cores(), round((1 - taken) * (os.cpu_count() or 1))))


def bound(environment: MutableMapping[str, str], *, steady: bool = False) -> None:
    """Bound an engine's threads in an environment, and make them wait passively; what is set already stays.

    Args:
        environment: Of the process that will load the engine.
        steady: The same number however busy the machine is: sums are rounded in another order with another
            number of threads, and an engine whose answers are compared bit by bit must not change it.
    """
    for name, value in PASSIVE.items():
        environment.setdefault(name, value)
    if "OMP_NUM_THREADS" not in environment:
        environment["OMP_NUM_THREADS"] = str(usable_cores() if steady else free_cores())
        environment[CHOSEN] = "1"
