"""SIGKILL of ``kvlab run`` itself, of its papermill and of its kernel, at random instants; then ``--resume``."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.servers.process import FakeServer
from benchmarks.torture import budget
from benchmarks.torture.counts import Counts
from benchmarks.torture.ledger import Ledger, runs_of
from benchmarks.torture.place import count_canary, count_left, family, place
from benchmarks.torture.scenes import Scene

#: Who is killed: a word of its command line.
VICTIMS = {"kernel": "ipykernel_launcher", "papermill": "kvlab.command.headless", "command": "kvlab run"}
RUN_S = 150.0
_MOST_RUNS = 240


class Commands:
    """One scene's runs by the command, and their deaths."""

    def __init__(self, scene: Scene, outputs: Path, server: FakeServer | None, counts: Counts) -> None:
        self.scene, self.outputs, self.server, self.counts = scene, outputs, server, counts
        self._ledger: Ledger | None = None
        self.runs = 0
        self.calm_s = 0.0

    def once(self, victim: str | None = None, after_s: float = RUN_S) -> int:
        """Run or resume; kill the victim after so long. Returns the exit code."""
        log = self.outputs.parent / f"command-{self.runs}.log"
        self.runs += 1
        known, began = set(runs_of(self.outputs)), time.monotonic()
        with log.open("wb") as out:
            process = subprocess.Popen(self._command(), stdout=out, stderr=subprocess.STDOUT)
            killed = False
            try:
                process.wait(after_s)
            except subprocess.TimeoutExpired:
                killed = victim is not None and self._kill(process.pid, victim)
            try:
                process.wait(RUN_S)
            except subprocess.TimeoutExpired:
                self.counts.harm(
                    "hangs", f"the command did not end: {log.read_text(errors='replace')[-500:]}"
                )
                process.kill()
                process.wait()
        self.calm_s = self.calm_s or time.monotonic() - began
        self.counts.tried += killed
        count_left(self.counts, self.outputs)
        self._look(process.returncode, log.read_text(errors="replace"), known, killed=killed)
        return process.returncode

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "kvlab", "run", self.scene.experiment]
        if self._ledger is not None:
            return [*command, "--resume", str(self._ledger.folder)]
        changes = (f"{name}={json.dumps(value)}" for name, value in self.scene.params.items())
        return [*command, "--profile", "smoke", *(word for change in changes for word in ("--set", change))]

    def _kill(self, pid: int, victim: str) -> bool:
        """Kill the victim, if it is there already. Returns whether it was."""
        word = VICTIMS[victim]
        for process in family(str(self.outputs)):
            try:
                words = " ".join(process.cmdline())
                if process.pid == pid if victim == "command" else word in words:
                    process.kill()
                    return True
            except psutil.Error:
                continue
        return False

    def _look(self, code: int, text: str, known: set[Path], *, killed: bool) -> None:
        new = [folder for folder in runs_of(self.outputs) if folder not in known]
        if self._ledger is None and new:
            self._ledger = Ledger(self.scene, new[-1], self.counts)
        ledger = self._ledger
        if ledger is None:
            return
        ledger.after(text)
        if not killed and code != 0:
            self.counts.harm("untrue", f"exit code {code} without a kill: {text[-800:]}")
        if code == 0:
            ledger.at_the_end(None if self.server is None else self.server.truth())
            if self.server is not None:
                self.server.clear_truth()
            self._ledger = None
        else:
            ledger.status_is("interrupted", "failed", *(["completed"] if code < 0 else []))
            if not (ledger.folder / "run.sqlite").exists():
                self._ledger = None  # killed before anything was measured: a new run begins

    def at_random(self, kills: int, draw: random.Random) -> None:
        """Kill each victim so often, in turn."""
        self.once()
        victims = list(VICTIMS)
        for _ in range(_MOST_RUNS):
            if self.counts.tried >= kills * len(victims):
                break
            if budget.is_spent():
                self.counts.ran_out(f"{self.counts.tried} of {kills * len(victims)} kills")
                break
            # The kernel is not there in the first moments.
            self.once(
                victims[self.counts.tried % len(victims)], draw.uniform(0.15 * self.calm_s, self.calm_s)
            )
        if self._ledger is not None:
            self.once()


def run(scene: Scene, seed: int, *, instants: int) -> list[Counts]:
    """Torture the command with one scene. Returns its row."""
    counts = Counts(f"{scene.experiment}: kvlab run, random instants")
    began = time.monotonic()
    with scene.served() as server, place(server and server.base_url) as outputs:
        if server is not None:
            server.control(**scene.slowly)
        commands = Commands(scene, outputs, server, counts)
        commands.at_random(instants, random.Random(f"{seed}/command/{scene.experiment}"))
        texts = (log.read_text(errors="replace") for log in outputs.parent.glob("*.log"))
        count_canary(counts, outputs, *texts)
        counts.see(commands=commands.runs)
    counts.seconds = time.monotonic() - began
    return [counts]
