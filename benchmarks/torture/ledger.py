"""What a run has said, stored and sent so far, over all its deaths; and what of that does not agree."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.torture.counts import Counts
from benchmarks.torture.scenes import Scene
from kvlab.runs import lock, status
from kvlab.store import frames
from kvlab.store.connect import FILE_NAME

_DONE = re.compile(r"^\[\d+/\d+\] (\S+) done: ", re.MULTILINE)
_USED = """
    FROM requests r JOIN trials t USING (trial_id) LEFT JOIN responses p USING (request_id)
    WHERE r.measured = 1 AND CASE WHEN r.item IS NULL THEN t.status = 'done' AND t.attempts = r.attempt
        ELSE r.final END
"""


class Ledger:
    """Of one run folder; `after` is called when a life has ended, `at_the_end` when the run is complete."""

    def __init__(self, scene: Scene, folder: Path, counts: Counts) -> None:
        self.scene, self.folder, self.counts = scene, folder, counts
        self.printed: set[str] = set()
        self.kept: dict[str, Any] = {}

    def after(self, printed: str) -> None:
        """Hold what a life printed against the database, and its requests against those of earlier lives."""
        counts = self.counts
        lines = _DONE.findall(printed)
        counts.see(lines=len(lines))
        for trial, times in Counter(lines).items():
            again = times - (trial not in self.printed)
            counts.harm("doubled", f"{trial} is printed as done again", again)
        self.printed |= set(lines)
        counts.harm("tracebacks", printed[-1200:], printed.count("Traceback (most recent call last)"))
        database = self.folder / FILE_NAME
        if not database.exists():
            counts.harm("lost", f"{sorted(self.printed)}: no database", len(self.printed))
            return
        with closing(_reading(database)) as sql:
            done = {row[0] for row in sql.execute("SELECT trial_id FROM trials WHERE status = 'done'")}
            lost = self.printed - done
            counts.harm("lost", f"{sorted(lost)} of {self.folder.name}", len(lost))
            now = {
                row[0]: row[1:] for row in sql.execute("SELECT request_id, sent_ns, done_ns FROM telemetry")
            }
            gone = [name for name, stamps in self.kept.items() if now.get(name) != stamps]
            counts.harm("lost", f"requests gone or changed: {gone[:5]}", len(gone))
            self.kept = now
            for wrong in frames.integrity(sql):
                counts.harm("untrue", wrong)

    def status_is(self, *allowed: str) -> None:
        """Hold the run's status against what happened."""
        found = status.reconcile(self.folder).get("status")
        if found not in allowed:
            self.counts.harm(
                "untrue", f"the status is {found}, not {' or '.join(allowed)}: {self.folder.name}"
            )
        if lock.is_locked(self.folder):
            self.counts.harm("left", "the lock of the run folder is held")

    def at_the_end(self, truth: list[dict[str, Any]] | None) -> None:
        """Look at the complete run: each trial measured once, cold where it must be, and nothing sent twice."""
        counts = self.counts
        self.status_is("completed")
        with closing(_reading(self.folder / FILE_NAME)) as sql:
            open_ = sql.execute("SELECT trial_id, status FROM trials WHERE status != 'done'").fetchall()
            counts.harm("lost", f"never done: {[tuple(row) for row in open_]}", len(open_))
            twice = sql.execute(
                f"SELECT r.trial_id, r.arm, count(*) {_USED} GROUP BY r.trial_id, r.arm, r.item HAVING count(*) > 1"
            ).fetchall()
            if self.scene.experiment != "context_limit_probe":  # whose trials ask as often as they must
                counts.harm(
                    "doubled", f"answers of one trial: {[tuple(row) for row in twice[:5]]}", len(twice)
                )
            self._states(sql, "cold", self.scene.cold)
            self._states(sql, "hit", self.scene.warm)
            if truth is not None:
                self._truth(sql, truth)
        left = [
            path.name for path in self.folder.rglob("*") if ".tmp" in path.name or path.name == ".error.json"
        ]
        counts.harm("left", f"temporary files: {left}", len(left))
        summary = json.loads((self.folder / "summary.json").read_text())
        if not summary.get("verdict"):
            counts.harm("untrue", "the summary has no verdict")

    def _states(self, sql: sqlite3.Connection, state: str, which: str) -> None:
        rows = sql.execute(
            f"SELECT r.request_id, p.cache_state, p.cached_tokens, p.shared_tokens {_USED} AND ({which})"
        ).fetchall()
        self.counts.see(**{f"{state}_requests": len(rows)})
        for name, found, cached, shared in rows:
            in_order = found == state and (state != "cold" or (cached or 0) <= (shared or 0))
            self.counts.harm("untrue", f"{name} is {found}, {cached} cached, not {state}", not in_order)

    def _truth(self, sql: sqlite3.Connection, truth: list[dict[str, Any]]) -> None:
        """Hold the database against what the server itself has seen."""
        names = Counter(record["request_id"] for record in truth if "/" in record["request_id"])
        counts = self.counts
        counts.see(requests_sent=sum(names.values()))
        twice = {name: times for name, times in names.items() if times > 1}
        counts.harm("doubled", f"sent under one name: {dict(list(twice.items())[:5])}", len(twice))
        really = {record["request_id"]: record["cached_tokens"] for record in truth}
        rows = sql.execute("SELECT request_id, cached_tokens FROM responses WHERE cached_tokens IS NOT NULL")
        wrong = [tuple(row) for row in rows if row[0] in really and really[row[0]] != row[1]]
        counts.harm("untrue", f"other cached tokens than the server's: {wrong[:5]}", len(wrong))


def _reading(path: Path) -> sqlite3.Connection:
    sql = sqlite3.connect(path)
    sql.row_factory = sqlite3.Row
    return sql


def runs_of(outputs: Path) -> Iterator[Path]:
    """Yield the run folders, oldest first."""
    yield from sorted(path.parent for path in outputs.glob("*/*/status.json"))
