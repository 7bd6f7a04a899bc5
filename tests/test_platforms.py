"""On Windows and macOS: nothing that only Linux has is imported on the way to a remote endpoint."""

import os
import subprocess
import sys
import textwrap

import pytest

from benchmarks.servers.process import FakeServer
from kvlab.errors import InputError
from kvlab.runs import lock
from tests.conftest import ROOT

#: What Windows' Python lacks. The other packages are imported before: their own platform is not ours to play.
BLOCK = """
import importlib.abc, os, sys
import filelock, httptools, httpx, numpy, openai, pandas, psutil, pydantic_settings, scipy.stats, typer, yaml
import matplotlib.figure, matplotlib.backends.backend_agg, jinja2, markdown_it, rich.progress, transformers
import ssl, ctypes, multiprocessing.connection, selectors, subprocess, tempfile, uuid, webbrowser, IPython.display
import stamina, tqdm.auto, prometheus_client.parser, platformdirs, scipy.optimize, scipy.special

class Refuse(importlib.abc.MetaPathFinder):
    names = {"fcntl", "resource", "pwd", "termios", "grp", "tty", "pty"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is not on Windows")

for name in Refuse.names:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Refuse())
for name in ("fork", "getuid", "geteuid", "sched_getaffinity", "killpg", "setsid"):
    if hasattr(os, name):
        delattr(os, name)
ssl.SSLContext._windows_cert_stores = ()  # Windows keeps certificates elsewhere
sys.platform = PLATFORM
"""


def on(platform, code, **env):
    text = BLOCK.replace("PLATFORM", repr(platform)) + textwrap.dedent(code)
    command = [sys.executable, "-c", text]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}, timeout=240, check=False
    )


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_a_token_sweep_against_a_remote_endpoint_needs_nothing_of_linux(platform, outputs):
    code = """
        import kvlab as kv
        settings = dict(manual_sections=30, max_tokens=3, token_targets=[96], repeats=2, position_controls=0)
        run = kv.open("token_sweep", profile="smoke", **settings)
        for trial in run.pending():
            run.measure(trial)
        print(sorted(set(run.requests["cache_state"])), run.finish().verdict)
        from kvlab.command import cli, doctor, runner, stages
        print("runs:", len(list(run.folder.glob("report.html"))))
    """
    with FakeServer(base_ms=1, itl_ms=1, ms_per_uncached_token=0.02) as server:
        env = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "EMPTY", "OPENAI_MODEL": "fake"}
        done = on(platform, code, **env)
    assert done.returncode == 0, done.stderr
    assert "['cold', 'hit']" in done.stdout
    assert "runs: 1" in done.stdout


def test_what_cannot_work_there_says_wsl2(outputs):
    code = """
        import kvlab as kv
        from kvlab.errors import InputError
        for name in ("token_sweep", "batch_benchmark"):
            try:
                kv.open(name, profile="smoke")
            except InputError as error:
                print(error)
    """
    done = on("win32", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("WSL2") == 2
    assert len(done.stdout.splitlines()) == 2
    assert not outputs.exists()


@pytest.mark.parametrize("held_by", ["flock", "filelock"])
def test_the_lock_without_flock_is_one_too(monkeypatch, tmp_path, held_by):
    """Both ways take the same lock of the system here."""
    with monkeypatch.context() as patch:
        if held_by == "filelock":
            patch.setattr(lock, "fcntl", None)
        held = lock.acquire(tmp_path)
    monkeypatch.setattr(lock, "fcntl", None)
    assert lock.is_locked(tmp_path)
    with pytest.raises(InputError, match="is still running"):
        lock.acquire(tmp_path)
    held.release()
    assert not lock.is_locked(tmp_path)
    with lock.locked(tmp_path):
        assert lock.is_locked(tmp_path)
    assert not (tmp_path / lock.FILE_NAME).exists()
