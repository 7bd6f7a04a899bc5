"""SIGKILL of a kernel: at every trial boundary, and at random instants of its whole life."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.servers.process import FakeServer
from benchmarks.torture import budget
from benchmarks.torture.counts import Counts
from benchmarks.torture.ledger import Ledger, runs_of
from benchmarks.torture.lives import Boundary, Ended, live
from benchmarks.torture.place import count_canary, count_left, place
from benchmarks.torture.scenes import Scene, patch

#: Of each trial: two deaths that leave it to be measured again, and one behind it.
BOUNDARIES = (
    Boundary("claim"), Boundary("record", "before"), Boundary("record"),
    Boundary("claim", "before"), Boundary("record", "before"), Boundary("line"),
)  # fmt: skip
#: The same for trials whose requests are committed one by one, by the kernel itself.
BY_ITEM = (
    Boundary("claim"), Boundary("item"), Boundary("record", "before"), Boundary("record"),
    Boundary("claim", "before"), Boundary("item", nth=2), Boundary("record", "before"), Boundary("line"),
)  # fmt: skip
#: More lives than any chain takes; a run that never ends is a hang.
_MOST_LIVES = 400
_DEATHS_OF_A_RUN = 4


class Chain:
    """One scene's lives and deaths; runs are begun as often as it takes."""

    def __init__(self, scene: Scene, outputs: Path, server: FakeServer | None, counts: Counts) -> None:
        self.scene, self.outputs, self.server, self.counts = scene, outputs, server, counts
        self._ledger: Ledger | None = None
        self._lives = 0
        self.calm_s = 0.0

    @property
    def folder(self) -> Path | None:
        """The run under way."""
        return None if self._ledger is None else self._ledger.folder

    def live(self, end: Boundary | float | None) -> Ended:
        """Live once, and look at what is left."""
        log = self.outputs.parent / f"life-{id(self)}-{self._lives}.log"
        known = set(runs_of(self.outputs))
        self._lives += 1
        ended = live(self.scene, self.folder, log, end=end)
        count_left(self.counts, self.outputs)
        self.counts.tried += ended.killed and not ended.hung
        self.counts.harm("hangs", f"a life did not end: {ended.printed[-500:]}", ended.hung)
        new = [folder for folder in runs_of(self.outputs) if folder not in known]
        if self._ledger is None and new:
            self._ledger = Ledger(self.scene, new[-1], self.counts)
        if self._ledger is not None:
            self._ledger.after(ended.printed)
            if (self._ledger.folder / "run.sqlite").exists() and ended.killed:
                # A kill may come after the last word has been written.
                self._ledger.status_is("interrupted", "completed")
        if not ended.killed and ended.code != 0:
            self.counts.harm("untrue", f"a life ended with {ended.code}: {ended.printed[-800:]}")
        if ended.code == 0:
            self.complete()
        elif self._ledger is not None and not (self._ledger.folder / "run.sqlite").exists():
            self._ledger = None  # killed before there was a database: nothing was measured, a new one begins
        return ended

    def complete(self) -> None:
        """Look at a run that has come to its end, and begin another next time."""
        assert self._ledger is not None
        self._ledger.at_the_end(None if self.server is None else self.server.truth())
        if self.server is not None:
            self.server.clear_truth()
        self._ledger = None

    def at_every_boundary(self, most: int | None) -> None:
        """Die at each boundary of each trial in turn, until the run is complete."""
        turns = itertools.cycle(BY_ITEM if self.scene.by_item else BOUNDARIES)
        for number in range(_MOST_LIVES):
            if most is not None and number >= most:
                break
            if budget.is_spent(0.5):
                self.counts.ran_out(f"{self.counts.tried} boundaries, and the run was not complete")
                break
            if self.live(next(turns)).code == 0:
                return
        self.to_the_end()

    def at_random(self, kills: int, draw: random.Random) -> None:
        """Die at so many instants, drawn from a whole life's length."""
        target = self.counts.tried + kills
        for number in range(1, _MOST_LIVES):
            if self.counts.tried >= target:
                break
            if budget.is_spent():
                self.counts.ran_out(f"{kills - target + self.counts.tried} of {kills} kills")
                break
            self.live(draw.uniform(0.0, self.calm_s))
            if number % _DEATHS_OF_A_RUN == 0:
                self.to_the_end()  # else all later deaths would fall into its report
        self.to_the_end()

    def to_the_end(self) -> None:
        """Live undisturbed where a run is under way."""
        if self._ledger is not None:
            self.live(None)

    def calm(self) -> None:
        """Live once undisturbed: how long that takes, and whether all is well without a kill."""
        self.calm_s = self.live(None).seconds


def run(scene: Scene, seed: int, *, instants: int = 20, boundaries: int | None = None) -> Iterator[Counts]:
    """Torture one scene. Yields a row for the boundaries and one for the instants."""
    if scene.prepare is not None:
        scene.prepare()
    patch(scene.patched)
    _import_all(scene)
    with scene.served() as server, place(server and server.base_url) as outputs:
        for name in ("boundary", "instant"):
            counts = Counts(f"{scene.experiment}: kernel, every {name}" if name == "boundary"
                            else f"{scene.experiment}: kernel, random {name}s")  # fmt: skip
            began = time.monotonic()
            chain = Chain(scene, outputs, server, counts)
            if name == "instant" and server is not None:
                server.control(**scene.slowly)  # or opening and reporting would be most of a life
            if name == "boundary":
                chain.at_every_boundary(boundaries)
            else:
                chain.calm()
                chain.at_random(instants, random.Random(f"{seed}/{scene.experiment}"))
            count_canary(
                counts, outputs, *(log.read_text(errors="replace") for log in outputs.parent.glob("*.log"))
            )
            counts.seconds = time.monotonic() - began
            yield counts


def _import_all(scene: Scene) -> None:
    """Import once what every life needs: a fork has it then."""
    import matplotlib.pyplot  # noqa: F401
    import pandas  # noqa: F401

    import kvlab.notebook
    import kvlab.report.build
    import kvlab.session  # noqa: F401
    from kvlab import experiments

    experiments.get(scene.experiment)
    for name in ("findings", "measure", "bench", "exports", "pictures", "tables", "estimate"):
        try:
            __import__(f"kvlab.experiments.{scene.experiment}.{name}")
        except ModuleNotFoundError:
            continue
