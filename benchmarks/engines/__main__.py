"""``python -m benchmarks.engines``: kvlab's experiments on real servers, as one table.

Each engine is started, asked by `kvlab doctor` and by four experiments, and stopped before the next one is.
What is not on this machine is named as skipped, with the reason. The rows are kept in ``results.json`` beside
this file; a part that is run again replaces its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.engines import isolation, runs, servers
from benchmarks.engines.places import AbsentError
from benchmarks.engines.servers import Place
from kvlab.errors import KvlabError
from kvlab.runs import contract as manifest
from kvlab.runs.files import write_json
from kvlab.runs.status import utc_now

RESULTS = Path(__file__).with_name("results.json")
_ROW = ("engine", "experiment", "verdict", "law", "held_out", "pairs", "account", "wall_s")
_ISOLATION = ("server", "truth", "by", "verdict", "positive", "negative", "requests", "right", "false", "n")
#: Behind a proxy or a router, what is asked is what kvlab says of the whole.
_IN_FRONT = ("doctor", "token_sweep", "cache_laws")


@contextmanager
def _proxied(behind: AbstractContextManager[Place], folder: Path) -> Iterator[Place]:
    with behind as server, servers.litellm(server, folder) as place:
        yield place


#: Name → how it is started in a folder, and what is run on it.
ENGINES: dict[str, tuple[Callable[[Path], AbstractContextManager[Place]], tuple[str, ...]]] = {
    "llama.cpp": (servers.llama_cpp, tuple(runs.EXPERIMENTS)),
    "llama.cpp+litellm": (lambda folder: _proxied(servers.llama_cpp(folder), folder), _IN_FRONT),
    "llama.cpp+round_robin": (lambda folder: servers.replicas("round_robin", folder), _IN_FRONT),
    "llama.cpp+sticky": (lambda folder: servers.replicas("sticky", folder), _IN_FRONT),
    "vllm-32": (lambda _: servers.vllm(32), tuple(runs.EXPERIMENTS)),
    "vllm-128": (lambda _: servers.vllm(128), tuple(runs.EXPERIMENTS)),
    "vllm-32+litellm": (lambda folder: _proxied(servers.vllm(32), folder), _IN_FRONT),
}


def measure(
    engine: str, experiments: tuple[str, ...], folder: Path, done: Callable[[dict[str, Any]], None]
) -> None:
    """Run experiments on one engine; each row is handed over when it is there.

    Raises:
        AbsentError: The engine is not on this machine.
    """
    start, possible = ENGINES[engine]
    with start(folder / engine) as place:
        for experiment in possible:
            if experiments and experiment not in experiments:
                continue
            row = runs.run(place, experiment, folder / engine / "outputs")
            done({"part": engine, **row.as_json()})


def main() -> int:
    """Run what is asked for, and print the table. Returns 1 where nothing could be run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], choices=[*ENGINES, "isolation"], metavar="PART")
    parser.add_argument("--experiments", nargs="*", default=[], choices=[*runs.EXPERIMENTS])
    parser.add_argument("--folder", type=Path, help="for logs and run folders; a temporary one unless told")
    parser.add_argument("--results", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    folder = (chosen.folder or Path(tempfile.mkdtemp(prefix="kvlab-engines-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(f"logs and run folders: {folder}", flush=True)
    kept = _Kept(chosen.results)
    for engine in chosen.only or [*ENGINES, "isolation"]:
        try:
            if engine == "isolation":
                kept.isolation(isolation.part(folder / "isolation"))
            else:
                measure(engine, tuple(chosen.experiments), folder, kept.row)
        except (AbsentError, KvlabError) as absent:
            print(f"{engine}: skipped: {absent}", flush=True)
    print_table(kept.content)
    return 0 if kept.content["rows"] else 1


class _Kept:
    """The results' file: rows of a part that is run again are replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = {"rows": [], "isolation": []}
        if path.exists():
            self.content = json.loads(path.read_text())

    def row(self, row: dict[str, Any]) -> None:
        print(
            f"{row['engine']}, {row['experiment']}: {row['verdict']}, {row['wall_s']:.0f} s {row['why']}",
            flush=True,
        )
        row = {name: value for name, value in row.items() if name != "folder"}
        where = (row["part"], row["experiment"])
        others = [one for one in self.content["rows"] if (one["part"], one["experiment"]) != where]
        self.content["rows"] = sorted([*others, row], key=lambda one: list(ENGINES).index(one["part"]))
        self._write()

    def isolation(self, rows: list[dict[str, Any]]) -> None:
        self.content["isolation"] = rows
        self._write()

    def _write(self) -> None:
        machine = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
        self.content |= {"machine": machine, "measured_utc": utc_now(), "git_commit": manifest.git_commit()}
        write_json(self.path, self.content)


def print_table(content: dict[str, Any]) -> None:
    """Print one row an engine and experiment, and one an isolation."""
    console = Console(width=200)
    _print(console, "engines", _ROW, content["rows"])
    _print(console, "isolation", _ISOLATION, content["isolation"])


def _print(console: Console, title: str, names: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    table = Table(*(name.replace("_", " ") for name in names), title=title)
    for row in rows:
        table.add_row(*("–" if row.get(name) is None else str(row[name]) for name in names))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
