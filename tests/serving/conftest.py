import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kvlab.serving.launch import ServerSpec
from kvlab.serving.model import Model
from kvlab.serving.state import family, homes, kill

HERE = Path(__file__).parent


def fake_spec(mode, folder):
    model = Model(str(folder), "fake", revision=None, max_model_len=None, packaged=False)
    program = (sys.executable, str(HERE / "fake_server.py"), mode, str(folder))
    return ServerSpec(model, ("--fake",), "cpu", 32, "fake 1.0", sizing=("--size", "1"), program=program)


@pytest.fixture
def folder(monkeypatch):
    # Not tmp_path: a socket's path must be short.
    path = Path(tempfile.mkdtemp(prefix="kvlab-test-"))
    monkeypatch.setenv("KVLAB_RUNTIME_DIR", str(path / "run"))
    yield path
    for home in homes():
        if state := home.read():
            kill([*([state.supervisor] if state.supervisor else []), *state.processes])
    shutil.rmtree(path)


@pytest.fixture
def holders(folder):
    """Starts processes that hold a lease, and ends them."""
    started = []

    def start(mode="ok"):
        command = [sys.executable, "-m", "tests.serving.holder", mode, str(folder)]
        root = HERE.parent.parent
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def eventually(condition, within_s=30.0):
    """Whether it becomes true; the limit is generous, because it is no timing that is tested."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def whole_server(lease):
    """The server's processes: itself and its child."""
    members = family(lease.pid)
    assert len(members) == 2
    return members


def gone(processes):
    return eventually(lambda: not any(each.process() for each in processes))
