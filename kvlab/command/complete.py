"""What a shell may offer: names of experiments, profiles and runs. Never an error, and never a server."""

from contextlib import suppress
from pathlib import Path

import typer

from kvlab.errors import KvlabError

_MOST = 200
#: Set by a shell that asks for what may come next.
VARIABLE = "_KVLAB_COMPLETE"


def experiments(incomplete: str = "") -> list[str]:
    """Return the experiments that begin so, by their folders: none is imported."""
    from kvlab import paths

    with suppress(KvlabError, OSError):
        folder = paths.home() / "params"
        names = sorted(path.name for path in folder.iterdir() if (path / "default.yaml").is_file())
        return [name for name in names if name.startswith(incomplete)]
    return []


def experiments_or_all(incomplete: str = "") -> list[str]:
    """Return the experiments that begin so, and ``all``."""
    return [*experiments(incomplete), *(["all"] if "all".startswith(incomplete) else [])]


def profiles(context: typer.Context, incomplete: str = "") -> list[str]:
    """Return the profiles of the experiment on the line, or those that any has."""
    from kvlab import paths

    named = str(context.params.get("experiment") or "*")
    with suppress(KvlabError, OSError):
        folder = paths.home() / "params"
        where = "*" if named == "all" or not (folder / named).is_dir() else named
        names = sorted({path.stem for path in folder.glob(f"{where}/*.yaml")})
        return [name for name in names if name.startswith(incomplete)]
    return []


def runs(context: typer.Context, incomplete: str = "") -> list[str]:
    """Return the ids of runs that begin so, newest first."""
    from kvlab import paths
    from kvlab.runs.find import run_id
    from kvlab.runs.folder import list_folders

    with suppress(KvlabError, OSError):
        named = context.params.get("outputs")
        ids = [run_id(path) for path in list_folders(Path(named) if named else paths.outputs_dir())]
        return [found for found in reversed(ids) if found.startswith(incomplete)][:_MOST]
    return []


def prepare() -> None:
    """Make typer answer the shells that its scripts are for."""
    from typer.completion import completion_init  # type: ignore[attr-defined]

    completion_init()


def script(shell: str) -> str:
    """Return what a shell reads to complete ``kvlab``.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    return get_completion_script(prog_name="kvlab", complete_var=VARIABLE, shell=shell)
