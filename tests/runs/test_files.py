"""Files that are whole or not there, and what a kill or a full disk leaves."""

import errno
import json
import os
import subprocess
import sys
import time

import pytest

from kvlab.runs import files, lock, status
from kvlab.runs.files import read_json, replacing, sweep, write_atomic, write_json


def test_what_a_kill_leaves_goes_with_the_next_lock(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from kvlab.runs import files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), 9)\n"
        "files.write_atomic(Path(sys.argv[1]), 'new')\n"
    )
    (tmp_path / "plots").mkdir()
    for name in ("summary.json", "plots/cold.png", "plots/cold.svg", "model.safetensors", "no_ending"):
        path = tmp_path / name
        path.write_text("old")
        subprocess.run([sys.executable, "-c", code, str(path)], check=False)
        assert path.read_text() == "old"
        assert len(list(path.parent.glob(f".{path.name}.*.tmp"))) == 1
    ours = (tmp_path / ".env.settings", tmp_path / ".gitignore")
    for path in ours:
        path.touch()
    with lock.locked(tmp_path):
        assert not [*tmp_path.glob(".*.tmp"), *tmp_path.glob("plots/.*")]
    assert all(path.exists() for path in ours)


def test_an_older_kvlabs_leftovers_go_and_a_young_file_of_others_stays(tmp_path):
    old, young = tmp_path / ".summary.json.abcd1234", tmp_path / ".index.html.abcd1234.tmp"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    files.sweep_stale(tmp_path)
    assert not old.exists()
    assert young.exists()
    sweep(tmp_path, tmp_path / "not there")
    assert not young.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b"null",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\x00",
        b"1" * 5000,
        b'"x"',
    ],
    ids=range(10),
)
def test_a_strangers_json_is_empty(tmp_path, content):
    path = tmp_path / "manifest.json"
    path.write_bytes(content)
    assert read_json(path) == {}
    assert read_json(tmp_path / "none.json") == {}
    (tmp_path / "folder.json").mkdir()
    assert read_json(tmp_path / "folder.json") == {}


def test_a_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MOST_JSON_BYTES", 10)
    write_json(tmp_path / "a.json", {"a": "b" * 20})
    assert read_json(tmp_path / "a.json") == {}


class Full:
    """A disk without room: whatever makes a file, or lets one grow, fails."""

    def __init__(self, monkeypatch, code=errno.ENOSPC):
        def fails(*_, **__):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(files.tempfile, "mkstemp", fails)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_on_a_full_disk_the_status_is_true_all_the_same(tmp_path, monkeypatch, code):
    status.begin(tmp_path, owner="test")
    Full(monkeypatch, code)
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "summary.json", "x")
    assert files.is_no_space(caught.value)
    status.end(tmp_path, status.Status.FAILED, reason="no space " * 100)
    found = json.loads((tmp_path / "status.json").read_text())
    assert found["status"] == "failed"
    assert found["owner"] == "test"
    assert len(found["reason"]) == 500


def test_an_error_that_is_no_full_disk_is_not_taken_for_one(tmp_path, monkeypatch):
    Full(monkeypatch, errno.EACCES)
    with pytest.raises(PermissionError):
        status.end(tmp_path, status.Status.FAILED)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def write():
        with replacing(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith((".", "a"))] == ["a.json"]
    assert path.read_text() == "old"
