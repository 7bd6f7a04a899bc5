"""The notebooks' own cells in a kernel, as a person runs them: interrupted, run again, twice, after the end.

Whatever is done to them, each pair must start cold by evidence, and what is wrong is one line in the cell.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError

from benchmarks.servers.process import FakeServer
from benchmarks.torture.counts import Counts
from benchmarks.torture.ledger import Ledger, runs_of
from benchmarks.torture.place import ROOT, count_canary, count_left, place
from benchmarks.torture.scenes import Scene

CELL_S = 120.0


class Person:
    """Somebody with one notebook open: runs its cells in whatever order, and looks at what came of it."""

    def __init__(
        self, scene: Scene, outputs: Path, server: FakeServer | None, counts: Counts, seed: str
    ) -> None:
        self.scene, self.outputs, self.server, self.counts = scene, outputs, server, counts
        self.draw = random.Random(seed)
        (path,) = (ROOT / "notebooks").glob(f"*_{scene.experiment}.ipynb")
        self.cells = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        self._ledgers: dict[Path, Ledger] = {}
        self._said = ""
        self._client: NotebookClient | None = None

    @contextlib.contextmanager
    def kernel(self) -> Iterator[None]:
        """Start a kernel; run the cells that come before the opening one, with the scene's parameters."""
        notebook = nbformat.v4.new_notebook(
            metadata={"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
        )
        self._client = NotebookClient(notebook, timeout=int(CELL_S), allow_errors=True, kernel_name="python3",
                                      resources={"metadata": {"path": str(self.outputs.parent)}})  # fmt: skip
        before = os.environ.get("JUPYTER_PREFER_ENV_PATH")
        os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
        try:
            with self._client.setup_kernel():
                if self.scene.patched is not None:
                    self.run(f"from benchmarks.torture import scenes\nscenes.patch({self.scene.patched!r})")
                self.run(self.cell("import kvlab"))
                values = {**self.scene.params, "profile": "torture", "run_dir": ""}
                self.run("\n".join(f"{name} = {value!r}" for name, value in values.items()))
                yield
        finally:
            os.environ.pop("JUPYTER_PREFER_ENV_PATH")
            if before is not None:
                os.environ["JUPYTER_PREFER_ENV_PATH"] = before

    def cell(self, part: str) -> str:
        """Return the notebook's cell in which something stands."""
        return next(source for source in self.cells if part in source)

    def run(self, source: str, *, refused: bool | None = False, stopped: bool = False) -> str:
        """Run a cell. Returns what it printed.

        Args:
            source: The cell.
            refused: Whether it must be refused, in one line; ``None``: it may be.
            stopped: Whether it was interrupted.
        """
        assert self._client is not None
        cell = nbformat.v4.new_code_cell(source)
        cells = self._client.nb["cells"]
        cells.append(cell)
        try:
            self._client.execute_cell(cell, len(cells) - 1)
        except CellTimeoutError:
            self.counts.harm("hangs", f"a cell took {CELL_S:.0f} s: {source[:200]}")
        except DeadKernelError:
            pass  # killed, by this story
        text = "".join(o.text for o in cell.outputs if o.output_type == "stream")
        errors = [o for o in cell.outputs if o.output_type == "error"]
        self._said += text
        self.counts.see(cells=1)
        for error in errors:
            lines = "\n".join(error.traceback).splitlines()
            if error.ename in ("KeyboardInterrupt", "Interrupted") and stopped:
                self.counts.see(interrupts=1)
                continue
            worded = error.ename in ("InputError", "KvlabError", "ServerError") and len(lines) == 1
            self.counts.harm(
                "tracebacks", f"{source[:120]!r}: {error.ename}: {error.evalue[:300]}", not worded
            )
            self.counts.harm(
                "untrue", f"{source[:120]!r} is refused: {error.evalue[:300]}", worded and refused is False
            )
        self.counts.harm("untrue", f"{source[:120]!r} is not refused", refused is True and not errors)
        return text

    def whole(self, part: str, **how: Any) -> str:
        """Run the notebook's own cell in which something stands."""
        return self.run(self.cell(part), **how)

    def interrupted(self, part: str, *, after: int, kill: bool = False) -> None:
        """Run a cell and interrupt it (or kill the kernel) once so many more trials are done, and a moment later."""
        assert self._client is not None
        km = self._client.km
        pid = km.provisioner.process.pid  # type: ignore[union-attr]
        over = threading.Event()
        wanted = self._done() + after
        moment = self.draw.uniform(0.0, 0.12)

        def wait() -> None:
            while not over.wait(0.01):
                if self._done() >= wanted:
                    time.sleep(moment)
                    if not over.is_set():
                        os.kill(pid, signal.SIGKILL if kill else signal.SIGINT)
                    return

        watching = threading.Thread(target=wait)
        watching.start()
        self.whole(part, stopped=True, refused=None)
        over.set()
        watching.join()
        self.counts.tried += 1
        self.look()

    def _done(self) -> int:
        """How many trials are done in the newest run."""
        try:
            folder = list(runs_of(self.outputs))[-1]
            with closing(sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True)) as sql:
                return int(sql.execute("SELECT count(*) FROM trials WHERE status = 'done'").fetchone()[0])
        except (sqlite3.Error, IndexError):
            return 0

    def newest(self) -> Ledger:
        """Return the ledger of the newest run."""
        folder = list(runs_of(self.outputs))[-1]
        return self._ledgers.setdefault(folder, Ledger(self.scene, folder, self.counts))

    def look(self) -> None:
        """Hold what was printed since the last look against the newest run."""
        self.newest().after(self._said)
        self._said = ""

    def complete(self) -> None:
        """Look at the newest run, which has been finished."""
        self.look()
        self.newest().at_the_end(None if self.server is None else self.server.truth())


OPEN, WARM, MEASURE, FINISH = '.open("', "run.warm_up()", "run.measure(trial)", "run.finish()"


def _interrupt_and_after_the_end(person: Person) -> None:
    """Interrupted twice while it measures; then everything to the end, and on after the end."""
    with person.kernel():
        person.whole(OPEN)
        _warm(person)
        person.interrupted(MEASURE, after=1)
        person.interrupted(MEASURE, after=1)
        start = next(i for i, source in enumerate(person.cells) if MEASURE in source)
        for source in person.cells[start:]:
            person.run(source)
        person.complete()
        for part in (MEASURE, WARM):
            if any(part in source for source in person.cells):
                person.whole(part, refused=True)
                person.counts.tried += 1
        again = person.run("print(run.finish().verdict, run.requests.shape, run.checks().shape)")
        person.counts.harm("untrue", "finish() again says nothing", not again.strip())
        person.counts.tried += 1
        person.complete()


def _warm_up_twice_and_open_again(person: Person) -> None:
    """Warm-up twice, before and between; then the run is opened again in the same kernel, and goes on."""
    with person.kernel():
        person.whole(OPEN)
        _warm(person, times=2)
        person.interrupted(MEASURE, after=1)
        _warm(person)
        person.run("run_dir = str(run.folder)")
        person.whole(OPEN)
        _warm(person)
        person.counts.tried += 2
        person.interrupted(MEASURE, after=1)
        person.whole(MEASURE)
        person.whole(FINISH)
        person.complete()


def _parameter_changed(person: Person) -> None:
    """A parameter is changed under an open run: refused by name, until the run is opened anew."""
    with person.kernel():
        person.whole(OPEN)
        person.interrupted(MEASURE, after=1)
        first = person.newest()
        person.run("seed = 4242")
        person.whole(MEASURE, refused=True)
        person.counts.tried += 1
        person.whole(OPEN)
        first.status_is("interrupted")
        _warm(person)
        person.whole(MEASURE)
        person.whole(FINISH)
        person.counts.harm(
            "untrue", "the changed parameter is in no run of its own", person.newest() is first
        )
        person.complete()


def _kernel_restarted(person: Person) -> None:
    """The kernel dies while it measures; another goes on in its folder."""
    with contextlib.suppress(RuntimeError, DeadKernelError), person.kernel():
        person.whole(OPEN)
        person.interrupted(MEASURE, after=1, kill=True)
    ledger = person.newest()
    count_left(person.counts, person.outputs)
    ledger.status_is("interrupted")
    with person.kernel():
        person.run(f"run_dir = {str(ledger.folder)!r}")
        person.whole(OPEN)
        _warm(person)
        person.whole(MEASURE)
        person.whole(FINISH)
        person.complete()


def _warm(person: Person, *, times: int = 1) -> None:
    for _ in range(times):
        if any(WARM in source for source in person.cells):
            person.whole(WARM)


STORIES = (_interrupt_and_after_the_end, _warm_up_twice_and_open_again, _parameter_changed, _kernel_restarted)


def run(scene: Scene, seed: int, *, stories: Sequence[Callable[[Person], None]] = STORIES) -> list[Counts]:
    """Tell stories with one notebook. Returns its row."""
    counts = Counts(f"{scene.experiment}: notebook, interrupted and continued")
    began = time.monotonic()
    if scene.prepare is not None:
        scene.prepare()
    for story in stories:
        with scene.served() as server, place(server and server.base_url) as outputs:
            if server is not None:
                server.control(**scene.slowly)
            person = Person(scene, outputs, server, counts, f"{seed}/{story.__name__}/{scene.experiment}")
            story(person)
            count_left(counts, outputs)
            count_canary(counts, outputs)
    counts.seconds = time.monotonic() - began
    return [counts]
