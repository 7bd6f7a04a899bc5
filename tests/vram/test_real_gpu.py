"""On a real card, where there is one: memory that fills up, an allocation that is refused, and back."""

import pytest

from kvlab.vram import Monitor, NvmlDevice, TorchAllocator, usage
from kvlab.vram.nvml import device_count

GIB = 2**30


def fill(torch, held):
    """Take memory, a GiB at a time, until there is none."""
    while True:
        held.append(torch.zeros(GIB, dtype=torch.uint8, device="cuda"))


@pytest.mark.skipif(device_count() == 0, reason="no NVIDIA card answers here")
def test_an_induced_out_of_memory_is_seen_by_the_driver_and_by_torch():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    held = []
    with Monitor([NvmlDevice(0), TorchAllocator(0)], interval_s=0.02) as monitor:
        with monitor.window("fill") as window, pytest.raises(torch.cuda.OutOfMemoryError):
            fill(torch, held)
        allocated = len(held) * GIB
        held.clear()
        torch.cuda.empty_cache()
        after = {sample.series: sample.used_bytes for sample in monitor.read_now()}
    found = {each.series: each for each in usage(monitor.drain(), window.start_ns, window.end_ns)}
    device, torch_own = found["nvml_device:0"], found["torch_allocated:0"]
    assert torch_own.peak_bytes == allocated
    assert device.delta_bytes >= allocated, "the driver also counts the context"
    assert after["torch_allocated:0"] == 0
    assert after["nvml_device:0"] < device.peak_bytes - 0.9 * allocated
