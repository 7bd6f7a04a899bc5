"""An environment of its own for an attack: outputs, settings, a key that must come out nowhere."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import psutil

from benchmarks.servers.catalogue import KEY
from benchmarks.torture.counts import Counts
from kvlab.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
KEY_TEXT = KEY.decode()
USER = "canary-user-2718281828"
#: How long processes may take to notice that their owner is dead.
GONE_S = 20.0


@contextmanager
def place(base_url: str | None = None) -> Iterator[Path]:
    """Give the process a folder and settings of its own; yields the folder of outputs."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="kvlab-torture-") as name:
        folder = Path(name)
        (folder / "empty.env").touch()
        for key in Settings.model_fields:
            os.environ.pop(key.upper(), None)
        os.environ |= {
            "KVLAB_OUTPUTS": str(folder / "outputs"),
            "KVLAB_ENV_FILE": str(folder / "empty.env"),
            "KVLAB_CACHE_DIR": str(folder / "cache"),
            "KVLAB_HOME": str(ROOT),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "KVLAB_PROGRESS": "lines",  # what a notebook printed is held against what it stored
            "REQUEST_TIMEOUT_S": "20",
        }
        if base_url is not None:
            os.environ |= {
                "OPENAI_BASE_URL": base_url,
                "OPENAI_API_KEY": KEY_TEXT,
                "OPENAI_MODEL": "fake",
                "TENSORMESH_USER_ID": USER,
            }
        try:
            yield folder / "outputs"
        finally:
            os.environ.clear()
            os.environ |= before


def family(mark: str) -> list[psutil.Process]:
    """Return every process but this one whose environment names these outputs: an orphan, too."""
    found = []
    for process in psutil.process_iter():
        try:
            of_ours = process.environ().get("KVLAB_OUTPUTS") == mark
            if of_ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def count_left(counts: Counts, outputs: Path) -> None:
    """Wait for all processes to go; count and end those that do not."""
    deadline = time.monotonic() + GONE_S
    while left := family(str(outputs)):
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for process in left:
        words = " ".join(process.cmdline()[:6]) if process.is_running() else "gone late"
        counts.harm("left", f"a process {GONE_S:.0f} s after the kill: {words}")
        if process.is_running():
            process.kill()


def count_canary(counts: Counts, outputs: Path, *texts: str) -> None:
    """Count the bytes of the key in every file below ``outputs``, and in texts."""
    canaries = (KEY, USER.encode())
    files = [path for path in outputs.rglob("*") if path.is_file()]
    for path in files:
        data = path.read_bytes()
        for canary in canaries:
            counts.harm("canary", f"in {path.name}", data.count(canary) * len(canary))
    for text in texts:
        for canary in canaries:
            counts.harm("canary", "in the output", text.encode().count(canary) * len(canary))
    counts.see(files_searched=len(files))


class HangError(Exception):
    """What should have ended long ago."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise `HangError` in the main thread after so long."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise HangError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
