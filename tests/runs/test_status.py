"""A run is alive while its lock is held, whatever its status file, its process number or the clock says."""

import json

import pytest

from kvlab.runs import lock, status
from kvlab.runs.status import Status, reconcile


def write(folder, **content):
    (folder / "status.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "content", [{"status": "running", "pid": 999_999, "pid_started": 1.0}, {"status": "interrupted"}, {}]
)
def test_a_held_lock_is_a_run_under_way(tmp_path, content):
    write(tmp_path, **content)
    before = (tmp_path / "status.json").read_bytes()
    with lock.locked(tmp_path):
        assert reconcile(tmp_path)["status"] == Status.RUNNING
    assert (tmp_path / "status.json").read_bytes() == before


def test_a_living_process_without_the_lock_is_no_run(tmp_path):
    status.begin(tmp_path, owner="test")  # this process lives
    found = reconcile(tmp_path)
    assert found["status"] == Status.INTERRUPTED
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "interrupted"
    assert reconcile(tmp_path) == found


def test_an_archive_is_judged_and_left_as_it_is(tmp_path, monkeypatch):
    write(tmp_path, status="running", pid=1)
    before = (tmp_path / "status.json").read_bytes()

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(status, "write_json", read_only)
    assert reconcile(tmp_path)["status"] == Status.INTERRUPTED
    assert (tmp_path / "status.json").read_bytes() == before


@pytest.mark.parametrize("state", ["completed", "failed", "interrupted", 5, None, ["x"]])
def test_another_status_stays(tmp_path, state):
    write(tmp_path, status=state)
    assert reconcile(tmp_path) == {"status": state}
