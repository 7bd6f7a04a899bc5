"""Memory over time: what holds it, how much, and what looking at it costs.

`Sampler` is the protocol. `ProcessTree` (psutil) reads a server's processes on this machine,
`NvmlDevice` and `NvmlProcess` an NVIDIA card, `TorchAllocator` an engine in this process, and
`Unavailable` nothing, with a reason: for a remote endpoint, memory is unknown, not 0.

A `Monitor` reads them in a background thread. Its `Sample`s go into the run's database
(`kvlab.vram.timeline`), where the windows of the trials lie beside them; baseline, peak and delta
are derived from the two.
"""

from kvlab.vram.choose import for_process, for_server, for_this_process, server_pid
from kvlab.vram.monitor import Cost, Monitor, Sample, Usage, Window, usage
from kvlab.vram.nvml import NvmlDevice, NvmlProcess
from kvlab.vram.samplers import ProcessTree, Reading, Sampler, TorchAllocator, Unavailable
from kvlab.vram.watch import Watched, watch

__all__ = [
    "Cost",
    "Monitor",
    "NvmlDevice",
    "NvmlProcess",
    "ProcessTree",
    "Reading",
    "Sample",
    "Sampler",
    "TorchAllocator",
    "Unavailable",
    "Usage",
    "Watched",
    "Window",
    "for_process",
    "for_server",
    "for_this_process",
    "server_pid",
    "usage",
    "watch",
]
