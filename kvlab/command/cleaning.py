"""Which runs may be deleted, and how: only what failed or did not end, never what somebody is writing in."""

import re
import shutil
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kvlab.errors import InputError
from kvlab.report import day
from kvlab.runs import lock
from kvlab.runs.folder import list_folders, stored_experiment
from kvlab.runs.status import FILE_NAME, Status, reconcile
from kvlab.store.connect import FILE_NAME as DATABASE

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_ENDED = (Status.FAILED, Status.INTERRUPTED)


@dataclass(frozen=True)
class Unfinished:
    """A run that may be deleted: its folder, how it stands, its trials, its size."""

    folder: Path
    status: str
    done: int
    trials: int
    mib: float


def unfinished(outputs: Path, experiment: str | None, older_than_days: float) -> list[Unfinished]:
    """Return the failed and interrupted runs, oldest first. One that is under way is none of them.

    Args:
        outputs: Where run folders are; only ``YYYY-MM-DD/<run>`` in it are looked at, and no links.
        experiment: Only of this one; ``None``: of all.
        older_than_days: Only those whose status was written so long ago, or earlier.
    """
    found = []
    for folder in list_folders(outputs):
        if not _is_own(folder):
            continue
        state = str(reconcile(folder).get("status"))
        age_s = time.time() - (folder / FILE_NAME).stat().st_mtime
        if state not in _ENDED or age_s < older_than_days * 86_400:
            continue
        if experiment is not None and _experiment(folder) != experiment:
            continue
        done, trials = _trials(folder)
        found.append(Unfinished(folder, state, done, trials, _bytes(folder) / 2**20))
    return found


def _is_own(folder: Path) -> bool:
    links = folder.is_symlink() or folder.parent.is_symlink()
    return _DAY.fullmatch(folder.parent.name) is not None and not links


def _experiment(folder: Path) -> str | None:
    """Return whose run it is: what its database says, else what its name does."""
    with suppress(InputError, sqlite3.Error, ValueError):
        return str(stored_experiment(folder)["name"])
    from kvlab import experiments

    rest = folder.name.partition("_")[2]
    return next((name for name in experiments.registry() if rest.startswith(f"{name}_")), None)


def _trials(folder: Path) -> tuple[int, int]:
    with suppress(sqlite3.Error):
        sql = sqlite3.connect(f"{(folder / DATABASE).as_uri()}?mode=ro", uri=True, timeout=1)
        try:
            query = "SELECT coalesce(sum(status = 'done'), 0), count(*) FROM trials"
            done, trials = sql.execute(query).fetchone()
            return int(done), int(trials)
        finally:
            sql.close()
    return 0, 0


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def delete(folder: Path) -> bool:
    """Delete a run folder, under its lock. Returns whether it did: not where it is under way, or has ended well."""
    try:
        held = lock.acquire(folder)
    except InputError:
        return False
    try:
        if reconcile_held(folder) not in _ENDED:
            return False
        # Out of sight first: what a kill leaves half deleted is no run folder any more.
        gone = folder.with_name(f".{folder.name}.deleted")
        folder.rename(gone)
    finally:
        held.release()
    shutil.rmtree(gone)
    day.write_index(folder.parent)
    _leave_no_empty_day(folder.parent)
    return True


def reconcile_held(folder: Path) -> str | None:
    """Return the written status of a run whose lock this process holds; a "running" was left by a killed one."""
    from kvlab.runs.files import read_json

    state = read_json(folder / FILE_NAME).get("status")
    return Status.INTERRUPTED if state == Status.RUNNING else state


def _leave_no_empty_day(folder: Path) -> None:
    """Take a day away that holds nothing but its index."""
    if {path.name for path in folder.iterdir()} <= {"index.html"}:
        (folder / "index.html").unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
