import contextlib
import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from kvlab.vram import ProcessTree, Reading, TorchAllocator, Unavailable, for_process

HOLD = "import sys, time; b = bytearray({mib} * 2**20); b[::4096] = b'x' * len(b[::4096]); print('ready', flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD.format(mib=64)!r}])"


@pytest.fixture
def parent():
    """A process whose child holds 64 MiB."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        children = psutil.Process(process.pid).children()
        yield process
        for each in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()


@pytest.mark.parametrize("measure", ["rss", "pss", "uss"])
def test_the_memory_of_a_tree_counts_its_children(parent, measure):
    sampler = ProcessTree(parent.pid, measure=measure)
    (reading,) = sampler.read()
    assert reading.series == f"process_{measure}"
    assert reading.used_bytes > 64 * 2**20
    assert reading.total_bytes is None
    assert sampler.reason is None


def test_shared_pages_are_counted_twice_by_rss_only(parent):
    rss, pss = (ProcessTree(parent.pid, measure=measure).read()[0].used_bytes for measure in ("rss", "pss"))
    assert rss > pss, "both processes map the same interpreter"


def test_a_process_that_ends_leaves_a_reason_and_no_zero(parent):
    sampler = ProcessTree(parent.pid)
    assert sampler.read()
    for child in psutil.Process(parent.pid).children():
        child.kill()
    parent.wait()
    assert sampler.read() == []
    assert "has ended" in sampler.reason
    assert "no process" in ProcessTree(2**22 + 1).reason


def test_a_remote_endpoint_has_no_memory_and_a_reason():
    (sampler,) = for_process(None)
    assert isinstance(sampler, Unavailable)
    assert sampler.read() == []
    assert "elsewhere" in sampler.reason


def test_without_a_card_the_process_tree_is_left():
    readings = [reading for sampler in for_process(os.getpid()) for reading in sampler.read()]
    assert readings[0].series == "process_rss"
    assert readings[0].used_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)


def test_torch_says_why_it_counts_nothing():
    cuda = SimpleNamespace(is_available=lambda: False)
    assert "no CUDA device" in TorchAllocator(cuda=cuda).reason
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1)
    sampler = TorchAllocator(device=3, cuda=cuda)
    assert "none of index 3" in sampler.reason
    assert sampler.read() == []


def test_torch_counts_tensors_and_what_it_reserved_for_them():
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        memory_allocated=lambda device: 5,
        memory_reserved=lambda device: 8,
    )
    assert TorchAllocator(cuda=cuda).read() == [
        Reading("torch_allocated:0", 5),
        Reading("torch_reserved:0", 8),
    ]


@pytest.mark.parametrize("cards", [0, 2])
def test_a_service_of_another_user_is_seen_on_the_cards_alone(monkeypatch, cards):
    monkeypatch.setattr("kvlab.vram.choose.device_count", lambda: cards)
    found = for_process(None, here=True)
    assert [sampler.name for sampler in found[1:]] == [f"NVML device {index}" for index in range(cards)]
    assert "whoever holds it" in found[0].reason if cards else "no card" in found[0].reason
    for sampler in found:
        sampler.close()
