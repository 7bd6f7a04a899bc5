"""One writer a run folder, for as long as its process lives."""

import subprocess
import sys

import pytest

from kvlab.errors import InputError
from kvlab.runs import lock
from tests.command.tool import until


def test_a_second_writer_is_refused_and_a_later_one_is_not(tmp_path):
    assert not lock.is_locked(tmp_path)
    with lock.locked(tmp_path):
        assert lock.is_locked(tmp_path)
        with pytest.raises(InputError, match="is still running; wait for it, or stop it"):
            lock.acquire(tmp_path)
    assert not lock.is_locked(tmp_path)
    lock.acquire(tmp_path).release()
    assert not (tmp_path / lock.FILE_NAME).exists(), "nothing is left"


def test_a_lock_on_a_file_that_was_taken_away_is_no_lock(tmp_path, monkeypatch):
    """One opens the file, the owner takes it away, a third one makes it anew: the first must see that."""
    first, flock, third = lock.acquire(tmp_path), lock.fcntl.flock, []

    def late(handle, how):
        if not third:
            third.append(None)
            first.release()
            third[0] = lock.acquire(tmp_path)
        return flock(handle, how)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    with pytest.raises(InputError, match="is still running"):
        lock.acquire(tmp_path)
    third[0].release()


def test_a_lock_dies_with_its_process(tmp_path):
    code = "import sys, time, pathlib; from kvlab.runs import lock; held = lock.acquire(pathlib.Path(sys.argv[1])); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    until(lambda: lock.is_locked(tmp_path))
    process.kill()
    process.wait()
    assert not lock.is_locked(tmp_path)
