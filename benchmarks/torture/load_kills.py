"""SIGKILL of the load generator, of its recorder and of the process that started them, at random instants."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks.servers.process import FakeServer
from benchmarks.torture import budget
from benchmarks.torture.counts import Counts
from benchmarks.torture.place import count_canary, count_left, place
from kvlab.store import frames
from tests.load.bench import Bench, recorder_of, start

VICTIMS = ("generator", "recorder", "starter")
ITEMS = 160
_MOST_SESSIONS = 200
_ENDS_WITHIN_S = 60.0


class Sessions:
    """One database after another, each filled by sessions that die."""

    def __init__(self, root: Path, server: FakeServer, counts: Counts) -> None:
        self.root, self.server, self.counts = root, server, counts
        self._bench: Bench | None = None
        self._sent: set[str] = set()
        self._sessions = self._databases = 0
        self.calm_s = 0.0

    def once(self, victim: str | None, after_s: float) -> bool:
        """Send what is left of the job, or die on the way. Returns whether all items are answered."""
        bench, session = self._opened()
        before = set(bench.final())
        self.server.clear_truth()
        began = time.monotonic()
        process = start(bench, bench.job(self.server.base_url, ITEMS, session=session))
        try:
            process.wait(after_s)
        except Exception:
            self.counts.tried += self._kill(process.pid, victim)
        assert process.stdout is not None
        try:
            process.wait(_ENDS_WITHIN_S)
        except Exception:
            self.counts.harm("hangs", f"the starter did not end after the death of its {victim}")
            process.kill()
            process.wait()
        self.calm_s = self.calm_s or time.monotonic() - began
        text = process.stdout.read().decode(errors="replace")
        count_left(self.counts, self.root / "outputs")
        return self._look(bench, before, text)

    def _opened(self) -> tuple[Bench, int | None]:
        self._sessions += 1
        if self._bench is not None:
            return self._bench, self._bench.resume()
        folder = self.root / f"database-{self._databases}"
        folder.mkdir()
        self._databases += 1
        self._bench = Bench(folder)
        return self._bench, None

    def _kill(self, pid: int, victim: str | None) -> int:
        """Kill the victim, if it is there already."""
        try:
            if victim == "starter":
                os.kill(pid, signal.SIGKILL)
            else:
                found = recorder_of(psutil.Process(pid))
                (found if victim == "recorder" else found.children()[0]).kill()
        except (psutil.Error, IndexError, OSError):
            return 0
        return 1

    def _look(self, bench: Bench, before: set[int], text: str) -> bool:
        counts = self.counts
        reports = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        said = max((report.get("done", 0) for report in reports), default=0)
        final = bench.final()
        counts.see(reports=len(reports), answered=len(set(final) - before))
        counts.harm("lost", f"{said} reported, {len(final)} stored", said - len(final))
        counts.harm("lost", "answered before, gone now", len(before - set(final)))
        counts.harm("doubled", "items with two final rows", len(final) - len(set(final)))
        names = Counter(record["request_id"] for record in self.server.truth())
        items = Counter(_item(name) for name in names)
        again = sorted(before & items.keys())
        counts.see(requests_sent=sum(names.values()))
        counts.harm("doubled", f"sent again though answered: {again[:5]}", len(again))
        counts.harm("doubled", "sent twice under one name", sum(times > 1 for times in names.values()))
        for wrong in frames.integrity(bench.database.sql):
            counts.harm("untrue", wrong)
        self._sent |= names.keys()
        unknown = bench.answered_ids() - self._sent
        counts.harm("untrue", f"answers of requests never sent: {list(unknown)[:3]}", len(unknown))
        counts.harm("tracebacks", text[-800:], text.count("Traceback"))
        if len(final) < ITEMS:
            return False
        bench.database.close()
        self._bench, self._sent = None, set()
        return True

    def at_random(self, kills: int, draw: random.Random) -> None:
        """Kill so often, each victim in turn."""
        self.once(None, _ENDS_WITHIN_S)
        for _ in range(_MOST_SESSIONS):
            if self.counts.tried >= kills:
                break
            if budget.is_spent():
                self.counts.ran_out(f"{self.counts.tried} of {kills} kills")
                break
            victim = VICTIMS[self.counts.tried % len(VICTIMS)]
            self.once(victim, draw.uniform(0.1 * self.calm_s, self.calm_s))
        while self._bench is not None and not self.once(None, _ENDS_WITHIN_S):
            self.counts.harm("lost", "a job that is not complete after an undisturbed session")
            break


def _item(name: str) -> int:
    return int(name.split("/")[2].split(".")[0])


def run(seed: int, *, instants: int) -> list[Counts]:
    """Torture the load generator. Returns its row."""
    counts = Counts("load generator: generator, recorder, starter, random instants")
    began = time.monotonic()
    with FakeServer(base_ms=30, itl_ms=3) as server, place() as outputs:
        sessions = Sessions(outputs.parent, server, counts)
        sessions.at_random(instants * len(VICTIMS), random.Random(f"{seed}/load"))
        count_canary(counts, outputs.parent)
    counts.seconds = time.monotonic() - began
    return [counts]
