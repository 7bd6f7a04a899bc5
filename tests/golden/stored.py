"""The stored runs, and what a report of one of them consists of."""

import shutil
from pathlib import Path

from kvlab import experiments
from kvlab.report import build

HERE = Path(__file__).resolve().parent
#: What a report is made of; everything else in a folder here is its result.
SOURCES = ("run.sqlite", "manifest.json")
#: As long as it is small: it repeats the database row by row.
LARGEST_REQUESTS = 200_000
TEXTS = {".json", ".md", ".csv", ".env", ".py"}
PLOTS = "plots.txt"


def names() -> list[str]:
    """Return the experiments that have a stored run."""
    return sorted(path.parent.name for path in HERE.glob("*/run.sqlite"))


def copy(name: str, folder: Path) -> Path:
    """Copy a stored run, without its results, to where it may be written; ``folder`` must not be there yet."""
    folder.mkdir(parents=True)
    for source in SOURCES:
        shutil.copy(HERE / name / source, folder / source)
    return folder


def rebuilt(name: str, folder: Path) -> dict[str, bytes]:
    """Write the whole report of a run folder anew; return its texts and the names of its plots."""
    build.rebuild(folder, experiments.get(name))
    files = [path for path in sorted(folder.iterdir()) if path.suffix in TEXTS and path.name not in SOURCES]
    found = {path.name: path.read_bytes() for path in files}
    if len(found["requests.csv"]) > LARGEST_REQUESTS:
        del found["requests.csv"]
    plots = sorted(path.name for path in (folder / "plots").iterdir())
    return found | {PLOTS: "".join(f"{plot}\n" for plot in plots).encode()}


def expected(name: str) -> dict[str, bytes]:
    """Return the stored results by file name."""
    return {path.name: path.read_bytes() for path in sorted((HERE / name / "expected").iterdir())}
