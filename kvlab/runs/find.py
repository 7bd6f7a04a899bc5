"""From what a person types to a run folder: a path, or an id as ``kvlab ls`` prints it."""

import difflib
from pathlib import Path

from kvlab import paths
from kvlab.errors import InputError
from kvlab.escape import line
from kvlab.runs.folder import list_folders
from kvlab.store.connect import FILE_NAME as DATABASE


def run_id(folder: Path) -> str:
    """Return the id of a run folder, ``<day>/<name>``, as it is printed."""
    return line(f"{folder.parent.name}/{folder.name}")


def run_folder(named: str | Path, outputs: Path | None = None, *, field: str = "run") -> Path:
    """Return the run folder that is meant.

    Args:
        named: A path, an id, or an id's last part where only one run has it.
        outputs: Where run folders are; ``None``: the usual place.
        field: What the text was given for, in an error.

    Raises:
        InputError: There is no such run, or several have that name.
    """
    text = str(named)
    top = outputs or paths.outputs_dir()
    for path in (Path(text), top / text):
        if text.strip() and is_run(path):
            return path.resolve()
    folders = {run_id(folder): folder for folder in list_folders(top)}
    wanted = text.strip().rstrip("/\\").replace("\\", "/") if text.strip() not in folders else text.strip()
    found = [name for name in folders if wanted in (name, name.partition("/")[2])]
    if len(found) == 1:
        return folders[found[0]].resolve()
    if found:
        raise InputError(field, text, f"is the name of {len(found)} runs; write the day too: {found[-1]}")
    if text.strip() and _is_folder(Path(text)):
        return Path(text).resolve()  # what is wrong with it, its database says
    raise InputError(
        field, text, f"is neither a run folder nor an id that `kvlab ls` prints; {_near(wanted, folders)}"
    )


def is_run(path: Path) -> bool:
    """Whether a folder holds a run, or what is left of one."""
    return _is_folder(path) and any((path / name).is_file() for name in (DATABASE, "status.json"))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _near(wanted: str, folders: dict[str, Path]) -> str:
    """Return a hint: the nearest id, by whole ids or by their last parts."""
    if not folders:
        return "there are no runs yet"
    tails = {name.partition("/")[2]: name for name in folders}
    near = difflib.get_close_matches(wanted, [*folders, *tails], n=1)
    if near:
        return f"did you mean {tails.get(near[0], near[0])}?"
    return f"the newest is {max(folders)}"
