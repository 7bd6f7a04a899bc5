"""Who writes in a run folder: one process at a time, by a lock that dies with it.

A status can say "running" of a process that was killed, and two starts can both read that nobody
runs: the lock is asked for, not read.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvlab.errors import InputError
from kvlab.runs.files import sweep

FILE_NAME = ".lock"
#: For so long a refused lock is asked for again: `is_held` takes it for a moment, to see.
_PATIENCE_S, _PAUSE_S = 0.5, 0.05


@dataclass(frozen=True)
class Lock:
    """A lock that is held; its file is there for as long, or until a killed owner's successor is done."""

    path: Path
    handle: int

    def release(self) -> None:
        """Give it back, and take its file away: while it is held, so that nobody else's is meant."""
        self.path.unlink(missing_ok=True)
        os.close(self.handle)


def acquire(folder: Path) -> Lock:
    """Return the lock of a run folder, taken; it is given back by ``release``, or by the process's end.

    What a killed owner has left half written is taken away.

    Raises:
        InputError: Another one holds it, or nothing can be written there.
    """
    path, until = folder / FILE_NAME, time.monotonic() + _PATIENCE_S
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            fix = f"cannot be written in ({error.strerror}); name another, or make it writable"
            raise InputError("run folder", str(folder), fix) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            if time.monotonic() < until:
                time.sleep(_PAUSE_S)
                continue
            fix = "is still running; wait for it, or stop it"
            raise InputError("run folder", str(folder), fix) from None
        # Between opening and locking, the one before may have taken the file away, and a third made another.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            sweep(folder, folder / "plots")
            return Lock(path, handle)
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder.

    Raises:
        InputError: Another one holds it.
    """
    lock = acquire(folder)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def locked_if_free(folder: Path) -> Iterator[bool]:
    """Hold the lock of a run folder, unless somebody else does. Yields whether it is held by this one.

    For what may be done beside a run under way: each file is replaced as a whole.

    Raises:
        InputError: Nothing can be written there.
    """
    if is_locked(folder):
        yield False
        return
    with locked(folder):
        yield True


def is_locked(folder: Path) -> bool:
    """Whether somebody is writing in a run folder."""
    try:
        handle = os.open(folder / FILE_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
