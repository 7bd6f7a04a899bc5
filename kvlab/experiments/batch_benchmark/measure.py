"""One trial: what is left of it goes to the load generator; counters and memory are read beside it."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvlab import vram
from kvlab.experiment import Streamed
from kvlab.experiments.batch_benchmark import batch_api, jobs
from kvlab.load import control, stretch
from kvlab.records import Trial
from kvlab.vram import timeline

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
    from kvlab.session import Lab

SAY_S = 5.0


def stream(lab: "Lab[BatchBenchmarkParams]", trial: Trial, attempt: int) -> Streamed:
    """Send what is left of a trial, and store it as it comes."""
    asked = jobs.workload(lab, trial)
    state = jobs.prefix_state(lab.counter, asked, trial.planned["size"])
    made = jobs.job(lab, trial, attempt, asked, state["prefix_tokens"])
    database, connection = lab.run.database, lab.engine.connection
    so_far = control.progress(database, made)
    before = stretch.counters(connection, lab.identity)
    number = stretch.begin(database, trial.trial_id, lab.run.session_id, before, state)
    seen = _Seen(lab, trial, monitor(lab))
    try:
        with seen.monitor, seen.monitor.window(trial.trial_id, attempt) as window:
            ended = control.run(made, so_far, told=seen.told, tick=seen.tick)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        stretch.end(database, number, "stopped" if stopped else f"{type(error).__name__}: {error}")
        timeline.record(database, lab.run.session_id, seen.monitor)
        raise
    after = stretch.settled(connection, lab.identity, before, ended.done - len(so_far.final) - ended.failed)
    stretch.end(database, number, ended.why, after, ended.generator)
    timeline.record(database, lab.run.session_id, seen.monitor, [window])
    return Streamed(ended.why == "done", seen.line(ended))


def monitor(lab: "Lab[BatchBenchmarkParams]") -> vram.Monitor:
    """Return what looks at the memory of the server, wherever on this machine that is."""
    connection = lab.engine.connection
    lease = connection.embedded
    samplers = vram.for_server(connection.target.base_url, lease.pid if lease else None)
    return vram.Monitor(samplers, interval_s=lab.params.memory_interval_s)


def watched(
    lab: "Lab[BatchBenchmarkParams]", trial: Trial, attempt: int, work: Callable[[], Streamed]
) -> Streamed:
    """Do work that stores its requests itself, while the server's memory is looked at; what is not offered has none."""
    looking = monitor(lab)
    try:
        with looking, looking.window(trial.trial_id, attempt) as window:
            done = work()
    except BaseException:
        timeline.record(lab.run.database, lab.run.session_id, looking)
        raise
    offered = not done.line.startswith(batch_api.NOT_OFFERED)
    timeline.record(lab.run.database, lab.run.session_id, looking, [window] if offered else [])
    return done


class _Seen:
    """Progress as it is shown, and the memory timeline as it is stored, while a trial runs."""

    def __init__(self, lab: "Lab[BatchBenchmarkParams]", trial: Trial, monitor: vram.Monitor) -> None:
        self.lab, self.trial, self.monitor = lab, trial, monitor
        self._began = self._said = self._stored = time.monotonic()

    def told(self, report: dict[str, Any]) -> None:
        """Show a report of what is committed, every few seconds."""
        now = time.monotonic()
        if report["state"] != "running" or now - self._said < SAY_S:
            return
        self._said = now
        eta = "" if report["eta_s"] is None else f", about {report['eta_s']:.0f} s left"
        lost = f", {report['failed']} failed" if report["failed"] else ""
        again = f", {report['retried']} sent again" if report["retried"] else ""
        self.lab.note(
            f"{self.trial.trial_id}: {report['done']:,} of {report['of']:,} stored, "
            f"{report['rate_per_s']:,.1f}/s{lost}{again}{eta}"
        )

    def tick(self) -> None:
        """Store the memory timeline now and then, so that a kill loses little of it."""
        if time.monotonic() - self._stored > SAY_S:
            self._stored = time.monotonic()
            timeline.record(self.lab.run.database, self.lab.run.session_id, self.monitor)

    def line(self, ended: control.Ended) -> str:
        """Return one line about how it ended."""
        took = time.monotonic() - self._began
        lost = f", {ended.failed} failed for good" if ended.failed else ""
        again = f", {ended.retried} sent again" if ended.retried else ""
        how = "" if ended.why == "done" else f"; {ended.why}: --resume sends the rest"
        return f"{ended.done:,} requests stored in {took:.1f} s{lost}{again}{how}"
