"""Where the workbench's files are: its home (notebooks, params), its cache, its outputs."""

import os
from pathlib import Path

import platformdirs

from kvlab.errors import InputError


def home() -> Path:
    """Return the folder that holds ``notebooks/`` and ``params/``.

    ``KVLAB_HOME`` names it; else the nearest one at or above the current folder, so that a copy of
    the workbench uses its own files; else the source tree that this package was installed from.

    Raises:
        InputError: There is none, or ``KVLAB_HOME`` is not one.
    """
    named = os.environ.get("KVLAB_HOME")
    if named:
        if not _is_home(Path(named)):
            raise InputError("KVLAB_HOME", named, "has no notebooks/ and params/; name a checkout of kvlab")
        return Path(named).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parent.parent):
        if _is_home(folder):
            return folder.resolve()
    raise InputError("KVLAB_HOME", None, "no notebooks/ and params/ at or above here; run in a checkout")


def _is_home(folder: Path) -> bool:
    return (folder / "notebooks").is_dir() and (folder / "params").is_dir()


def cache_dir() -> Path:
    """Return the user's cache folder (``KVLAB_CACHE_DIR``, else the platform's own)."""
    named = os.environ.get("KVLAB_CACHE_DIR")
    return Path(named) if named else platformdirs.user_cache_path("kvlab")


def laws_dir() -> Path:
    """Return the folder of the laws that were learned of servers (``KVLAB_LAWS``, else in the user's cache)."""
    named = os.environ.get("KVLAB_LAWS")
    return Path(named) if named else cache_dir() / "laws"


def env_file() -> Path | None:
    """Return the ``.env`` to read: ``KVLAB_ENV_FILE``, else the nearest from here up to the home.

    Raises:
        InputError: ``KVLAB_ENV_FILE`` names a file that is not there.
    """
    named = os.environ.get("KVLAB_ENV_FILE")
    if named:
        if not Path(named).exists() or Path(named).is_dir():
            raise InputError("KVLAB_ENV_FILE", named, "is not a file; unset it, or name one")
        return Path(named)
    top = home()
    here = Path.cwd().resolve()
    inside = [here, *here.parents]
    folders = inside[: inside.index(top) + 1] if top in inside else [here, top]
    return next((folder / ".env" for folder in folders if (folder / ".env").is_file()), None)


def outputs_dir() -> Path:
    """Return the folder of all run folders: ``KVLAB_OUTPUTS``, else ``outputs/`` in the home."""
    named = os.environ.get("KVLAB_OUTPUTS")
    return Path(named) if named else home() / "outputs"
