"""The load generator as a notebook sees it: start it, watch it, stop it, and know how it ended."""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from kvlab.load.job import Job, Progress
from kvlab.store.database import Database

TICK_S = 0.25


@dataclass(frozen=True)
class Ended:
    """How a stretch of load ended.

    Attributes:
        done: Items with a final row in the database, those of earlier stretches included.
        failed: Those of this stretch that failed for good.
        retried: Attempts of this stretch that were followed by another.
        generator: What the generator says of itself; ``None``: it could not say anything.
        why: ``done``, ``stopped``, or what went wrong.
    """

    done: int
    failed: int
    retried: int
    generator: dict[str, Any] | None
    why: str


def progress(database: Database, job: Job) -> Progress:
    """Return what of a job's trial is in the database."""
    rows = database.sql.execute(
        "SELECT item, max(attempt) AS attempts, max(final) AS final FROM requests WHERE trial_id = ? GROUP BY item",
        (job.trial_id,),
    ).fetchall()
    answers: dict[int, str] = {}
    if job.workload.kind == "conversation":
        query = """SELECT r.item, p.text FROM requests r JOIN responses p USING (request_id)
            WHERE r.trial_id = ? AND r.final = 1"""
        answers = {row["item"]: row["text"] for row in database.sql.execute(query, (job.trial_id,))}
    final = frozenset(row["item"] for row in rows if row["final"])
    open_ = {row["item"]: row["attempts"] for row in rows if not row["final"]}
    return Progress(final, open_, answers)


def run(
    job: Job, so_far: Progress, *, on_report: Callable[[dict[str, Any]], None], tick: Callable[[], None]
) -> Ended:
    """Send what is left of a job, from processes of its own, and wait for the end.

    Ctrl-C stops the sending; what is in flight is waited for and stored before it is raised.

    Args:
        job: What to do.
        so_far: What is done (`progress`).
        on_report: Called with each report of what has been committed.
        tick: Called a few times per second.

    Raises:
        KeyboardInterrupt: The user stopped it.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "kvlab.load.recorder"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None  # noqa: S101 - PIPE, for the type checker
        process.stdin.write(job.message() + so_far.message())
        process.stdin.flush()
        last: dict[str, Any] = {}
        stopped = False
        lines = _lines(process)
        while True:
            try:
                for report in lines:
                    if report:
                        last = report
                        on_report(report)
                    tick()
                break
            except KeyboardInterrupt:
                if stopped:
                    process.stdin.close()  # a second one does not wait: what is in flight is given up
                    raise
                stopped = True
                process.stdin.write(b"stop\n")
                process.stdin.flush()
                lines = _lines(process)
        code = process.wait()
    if stopped:
        raise KeyboardInterrupt
    return _ended(last, code)


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    """Yield the recorder's reports, and an empty one when there is none for a while."""
    assert process.stdout is not None  # noqa: S101 - PIPE, for the type checker
    descriptor, rest = process.stdout.fileno(), b""
    while True:
        if not select.select([descriptor], [], [], TICK_S)[0]:
            yield {}
            continue
        data = os.read(descriptor, 65_536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _ended(last: dict[str, Any], code: int) -> Ended:
    says = last.get("generator")
    why = "done"
    if last.get("state") != "ended":
        why = f"the recorder ended with {code}"
    elif last["died"]:
        why = str(last["died"])
    elif says is not None and (says["gave_up"] or says["stopped"]):
        why = says["gave_up"] or "stopped"
    return Ended(last.get("done", 0), last.get("failed", 0), last.get("retried", 0), says, why)
