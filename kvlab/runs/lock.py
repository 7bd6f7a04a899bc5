"""Who writes in a run folder: one process at a time, by a lock that dies with it.

A status can say "running" of a process that was killed, and two starts can both read that nobody
runs: the lock is asked for, not read.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kvlab.errors import InputError

FILE_NAME = ".lock"


@dataclass(frozen=True)
class Lock:
    """A lock that is held; its file is there for as long, or until a killed owner's successor is done."""

    path: Path
    handle: int

    def release(self) -> None:
        """Give it back, and take its file away: while it is held, so that nobody else's is meant."""
        self.path.unlink(missing_ok=True)
        os.close(self.handle)


def hold(folder: Path) -> Lock:
    """Return the lock of a run folder, taken; it is given back by ``release``, or by the process's end.

    Raises:
        InputError: Another one holds it.
    """
    path = folder / FILE_NAME
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            fix = "is still running; wait for it, or stop it"
            raise InputError("run folder", str(folder), fix) from None
        # Between opening and locking, the one before may have taken the file away, and a third made another.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            return Lock(path, handle)
        os.close(handle)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a run folder.

    Raises:
        InputError: Another one holds it.
    """
    lock = hold(folder)
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
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
