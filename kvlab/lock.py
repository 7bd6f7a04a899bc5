"""Who writes in a run folder: one process at a time, by a lock that dies with it.

A status can say "running" of a process that was killed, and two starts can both read that nobody
runs: the lock is asked for, not read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kvlab.errors import InputError

FILE_NAME = ".lock"


def hold(folder: Path) -> FileLock:
    """Return the lock of a run folder, taken; it is given back by ``release``, or by the process's end.

    Raises:
        InputError: Another one holds it.
    """
    lock = FileLock(folder / FILE_NAME, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError("run folder", str(folder), "is still running; wait for it, or stop it") from None
    return lock


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
    if not (folder / FILE_NAME).is_file():
        return False
    try:
        hold(folder).release()
    except InputError:
        return True
    return False
