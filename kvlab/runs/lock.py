"""Who writes in a run folder: one process at a time, by a lock that dies with it.

A status can say "running" of a process that was killed, and two starts can both read that nobody
runs: the lock is asked for, not read.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import filelock

from kvlab.errors import InputError
from kvlab.runs.files import sweep

try:
    import fcntl
except ImportError:  # Windows, where filelock has the system's own lock
    fcntl = None  # type: ignore[assignment]

FILE_NAME = ".lock"
#: For so long a refused lock is asked for again: `is_held` takes it for a moment, to see.
_PATIENCE_S, _PAUSE_S = 0.5, 0.05


@dataclass(frozen=True)
class Lock:
    """A lock that is held; its file is there for as long, or until a killed owner's successor is done.

    Attributes:
        path: Its file.
        release: Gives it back, and takes its file away.
    """

    path: Path
    release: Callable[[], None]


def acquire(folder: Path) -> Lock:
    """Return the lock of a run folder, taken; it is given back by ``release``, or by the process's end.

    What a killed owner has left half written is taken away.

    Raises:
        InputError: Another one holds it, or nothing can be written there.
    """
    path, until = folder / FILE_NAME, time.monotonic() + _PATIENCE_S
    if fcntl is None:
        return _hold_by_filelock(folder, path)
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise _not_writable(folder, error) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            if time.monotonic() < until:
                time.sleep(_PAUSE_S)
                continue
            raise _running(folder) from None
        # Between opening and locking, the one before may have taken the file away, and a third made another.
        if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
            sweep(folder, folder / "plots")
            return Lock(path, partial(_release, path, handle))
        os.close(handle)


def _release(path: Path, handle: int) -> None:
    """Take the file away while it is locked, so that nobody else's is meant."""
    path.unlink(missing_ok=True)
    os.close(handle)


def _running(folder: Path) -> InputError:
    return InputError("run folder", str(folder), "is still running; wait for it, or stop it")


def _not_writable(folder: Path, error: OSError) -> InputError:
    fix = f"cannot be written in ({error.strerror}); name another, or make it writable"
    return InputError("run folder", str(folder), fix)


def _hold_by_filelock(folder: Path, path: Path) -> Lock:
    """Do as `hold` does where there is no ``flock``. The file of a lock that is held cannot be deleted there."""
    held = filelock.FileLock(path, timeout=_PATIENCE_S, poll_interval=_PAUSE_S, thread_local=False)
    try:
        held.acquire()
    except filelock.Timeout:
        raise _running(folder) from None
    except OSError as error:
        raise _not_writable(folder, error) from None
    sweep(folder, folder / "plots")

    def release() -> None:
        held.release()
        with suppress(OSError):  # somebody else has it already
            path.unlink(missing_ok=True)

    return Lock(path, release)


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
    if fcntl is None:
        return _is_held_by_filelock(folder / FILE_NAME)
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


def _is_held_by_filelock(path: Path) -> bool:
    if not path.exists():
        return False
    asked = filelock.FileLock(path, blocking=False)
    try:
        asked.acquire()
    except filelock.Timeout:
        return True
    except OSError:  # of an archive that cannot be written in
        return False
    asked.release()
    return False
