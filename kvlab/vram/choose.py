"""Which samplers can see an engine's memory."""

import os

from kvlab.vram.nvml import NvmlDevice, NvmlProcess, device_count
from kvlab.vram.samplers import ProcessTree, Sampler, TorchAllocator, Unavailable


def for_process(pid: int | None) -> list[Sampler]:
    """Return the samplers for a server: its process tree, and every NVIDIA card of this machine.

    Args:
        pid: The server's process on this machine; ``None``: it runs elsewhere.
    """
    if pid is None:
        return [Unavailable("the endpoint runs elsewhere: its memory cannot be seen from here")]
    cards: list[Sampler] = []
    for index in range(device_count()):
        cards += [NvmlDevice(index), NvmlProcess(pid, index)]
    return [ProcessTree(pid), *cards]


def for_this_process() -> list[Sampler]:
    """Return the samplers for an engine inside this process, with torch's allocator where it has a device."""
    torch = TorchAllocator()
    return [*for_process(os.getpid()), *([] if torch.reason else [torch])]
