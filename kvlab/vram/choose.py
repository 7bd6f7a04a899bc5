"""Which samplers can see an engine's memory."""

import os

import psutil

from kvlab.vram.nvml import NvmlDevice, NvmlProcess, device_count
from kvlab.vram.samplers import ProcessTree, Sampler, TorchAllocator, Unavailable


def for_process(pid: int | None, *, here: bool = False) -> list[Sampler]:
    """Return the samplers for a server: its process tree, and every NVIDIA card of this machine.

    Args:
        pid: The server's process on this machine; ``None``: it runs elsewhere, or cannot be seen.
        here: Whether it runs on this machine although its process cannot be seen, as a service of another
            user's does: then the cards are read whole, whoever holds what is on them.
    """
    if pid is None and not here:
        return [Unavailable("the endpoint runs elsewhere: its memory cannot be seen from here")]
    count = device_count()
    if pid is None:
        shown = (
            "of the cards, all that is in use is shown, whoever holds it"
            if count
            else "there is no card to read"
        )
        why = f"the server runs on this machine, and its process cannot be seen (another user's?): {shown}"
        return [Unavailable(why), *(NvmlDevice(index) for index in range(count))]
    cards: list[Sampler] = []
    for index in range(count):
        cards += [NvmlDevice(index), NvmlProcess(pid, index)]
    return [ProcessTree(pid), *cards]


def for_this_process() -> list[Sampler]:
    """Return the samplers for an engine inside this process, with torch's allocator where it has a device."""
    torch = TorchAllocator()
    return [*for_process(os.getpid()), *([] if torch.reason else [torch])]


def listener_pid(port: int) -> int | None:
    """Return the process that listens on a TCP port of this machine; ``None`` where that cannot be seen."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    for each in connections:
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid:
            return int(each.pid)
    return None
