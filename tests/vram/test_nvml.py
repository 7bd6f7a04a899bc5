import os

import pytest

from benchmarks.servers.nvml import RecordedNvml
from kvlab.vram import Monitor, NvmlDevice, NvmlProcess, Reading, usage
from kvlab.vram.nvml import device_count

GIB = 2**30
ME = os.getpid()


def test_a_device_has_what_everybody_uses_and_its_size():
    nvml = RecordedNvml([(3 * GIB, {})])
    sampler = NvmlDevice(0, nvml)
    assert sampler.read() == [Reading("nvml_device:0", 3 * GIB, 80 * GIB)]
    assert sampler.reason is None
    sampler.close()
    assert nvml.opened == 0
    assert sampler.read() == []
    assert sampler.reason == "closed"


def test_a_process_has_its_own_share():
    nvml = RecordedNvml([(9 * GIB, {ME: 2 * GIB, 999_999: 7 * GIB})])
    assert NvmlProcess(ME, 0, nvml).read() == [Reading("nvml_process:0", 2 * GIB)]


@pytest.mark.parametrize(
    ("processes", "reason"),
    [({999_999: GIB}, "lists 1 processes on the device, none of this tree"), ({ME: None}, "not its memory")],
)
def test_a_process_that_nvml_does_not_show_is_not_zero(processes, reason):
    """Process numbers of a container, MIG, Windows."""
    sampler = NvmlProcess(ME, 0, RecordedNvml([(GIB, processes)]))
    assert sampler.read() == []
    assert reason in sampler.reason


@pytest.mark.parametrize("kind", [NvmlDevice, lambda index, library: NvmlProcess(ME, index, library)])
def test_no_driver_and_no_such_device_are_reasons(kind):
    sampler = kind(0, RecordedNvml([], driver=False))
    assert "no NVIDIA driver answers" in sampler.reason
    assert sampler.read() == []
    nvml = RecordedNvml([], devices=1)
    assert "no NVIDIA device 4" in kind(4, nvml).reason
    assert nvml.opened == 0


def test_a_read_that_fails_is_a_gap_and_the_next_one_counts():
    sampler = NvmlDevice(0, RecordedNvml(["GPU is lost", (GIB, {})]))
    assert sampler.read() == []
    assert "GPU is lost" in sampler.reason
    assert sampler.read()[0].used_bytes == GIB
    assert sampler.reason is None


def test_devices_are_counted_and_none_is_no_error():
    assert device_count(RecordedNvml([], devices=2)) == 2
    assert device_count(RecordedNvml([], driver=False)) == 0


def test_an_out_of_memory_shows_as_a_peak_that_comes_back():
    """The card fills, the allocation fails, the memory is given back: peak, not end, is what it took."""
    frames = [(used * GIB, {}) for used in (2, 2, 40, 79, 2, 2)]
    monitor = Monitor([NvmlDevice(0, RecordedNvml(frames))], interval_s=60)
    with monitor, monitor.window("probe") as window:
        for _ in range(3):
            monitor.read_now()
    (found,) = usage(monitor.drain(), window.start_ns, window.end_ns)
    assert (found.baseline_bytes, found.peak_bytes, found.end_bytes) == (2 * GIB, 79 * GIB, 2 * GIB)
    assert found.delta_bytes == 77 * GIB
    assert found.samples == 5
