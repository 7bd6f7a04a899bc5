"""One trial: what is left of it goes to the load generator; counters and memory are read beside it."""

import time
from typing import TYPE_CHECKING, Any

from kvlab import vram
from kvlab.endpoints.openai import Call
from kvlab.experiment import Measuring, UnfinishedError
from kvlab.experiments.batch_benchmark import batch_api, jobs
from kvlab.load import control, stretch
from kvlab.prompts import batch, manual
from kvlab.records import Recorded, Trial
from kvlab.vram import timeline

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
    from kvlab.session import Session

SAY_S = 5.0


def measure(session: "Session[BatchBenchmarkParams]", trial: Trial) -> Measuring:
    """Send what is left of a trial. What sends also stores, so nothing but the warm-up is yielded."""
    if trial is session.plan.warm_up:
        yield _warm_up(session, trial)
        return ""
    if trial.planned["strategy"] == "batch_api":
        return _batch_api(session, trial)
    return _generated(session, trial)


def _warm_up(session: "Session[BatchBenchmarkParams]", trial: Trial) -> Recorded:
    """Make one unmeasured request with a marker of its own."""
    mark = manual.marker(session.run.isolation_id, session.tag(trial))
    messages = [batch.system_message(mark, "Section 1."), batch.question(session.params.seed, 0)]
    asked: Recorded = session.engine.ask(
        Call(
            request_id=session.request_id(trial, trial.point),
            arm=trial.point,
            prompt={"messages": messages},
            decoding={"max_tokens": session.params.max_tokens, "temperature": session.params.temperature},
            salt=mark,
            attempt=session.attempt,
            shared_tokens=session.shared_tokens,
            measured=False,
        )
    )
    return asked


def _generated(session: "Session[BatchBenchmarkParams]", trial: Trial) -> str:
    """Let the load generator send what is left, while counters and memory are read beside it."""
    asked = jobs.workload(session, trial)
    state = jobs.prefix_state(session.counter, asked, trial.planned["size"])
    made = jobs.job(session, trial, asked, state["prefix_tokens"])
    database, connection = session.database, session.engine.connection
    so_far = control.progress(database, made)
    before = stretch.counters(connection, session.identity)
    number = stretch.begin(database, trial.trial_id, session.run.session_id, before, state)
    seen = _Seen(session, trial, _monitor(session))
    try:
        with seen.monitor, seen.monitor.window(trial.trial_id, session.attempt) as window:
            ended = control.run(made, so_far, on_report=seen.report, tick=seen.tick)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        stretch.end(database, number, "stopped" if stopped else f"{type(error).__name__}: {error}")
        timeline.record(database, session.run.session_id, seen.monitor)
        raise
    after = stretch.counters_after(
        connection, session.identity, before, ended.done - len(so_far.final) - ended.failed
    )
    stretch.end(database, number, ended.why, after, ended.generator)
    timeline.record(database, session.run.session_id, seen.monitor, [window])
    if ended.why != "done":
        raise UnfinishedError(seen.line(ended))
    return seen.line(ended)


def _batch_api(session: "Session[BatchBenchmarkParams]", trial: Trial) -> str:
    """Send a trial as a batch job, while the server's memory is looked at; what is not offered has none."""
    looking, line = _monitor(session), ""
    try:
        with looking, looking.window(trial.trial_id, session.attempt) as window:
            line = batch_api.send(session, trial)
    finally:
        offered = bool(line) and not line.startswith(batch_api.NOT_OFFERED)
        timeline.record(session.database, session.run.session_id, looking, [window] if offered else [])
    return line


def _monitor(session: "Session[BatchBenchmarkParams]") -> vram.Monitor:
    """Return what looks at the memory of the server, wherever on this machine that is."""
    connection = session.engine.connection
    lease = connection.embedded
    samplers = vram.for_server(connection.target.base_url, lease.pid if lease else None)
    return vram.Monitor(samplers, interval_s=session.params.memory_interval_s)


class _Seen:
    """Progress as it is shown, and the memory timeline as it is stored, while a trial runs."""

    def __init__(self, session: "Session[BatchBenchmarkParams]", trial: Trial, monitor: vram.Monitor) -> None:
        self.session, self.trial, self.monitor = session, trial, monitor
        self._began = self._last_line_s = self._stored = time.monotonic()

    def report(self, report: dict[str, Any]) -> None:
        """Show a report of what is committed, every few seconds."""
        now = time.monotonic()
        if report["state"] != "running" or now - self._last_line_s < SAY_S:
            return
        self._last_line_s = now
        eta = "" if report["eta_s"] is None else f", about {report['eta_s']:.0f} s left"
        lost = f", {report['failed']} failed" if report["failed"] else ""
        again = f", {report['retried']} sent again" if report["retried"] else ""
        self.session.note(
            f"{self.trial.trial_id}: {report['done']:,} of {report['of']:,} stored, "
            f"{report['rate_per_s']:,.1f}/s{lost}{again}{eta}"
        )

    def tick(self) -> None:
        """Store the memory timeline now and then, so that a kill loses little of it."""
        if time.monotonic() - self._stored > SAY_S:
            self._stored = time.monotonic()
            timeline.record(self.session.database, self.session.run.session_id, self.monitor)

    def line(self, ended: control.Ended) -> str:
        """Return one line about how it ended."""
        took = time.monotonic() - self._began
        lost = f", {ended.failed} failed for good" if ended.failed else ""
        again = f", {ended.retried} sent again" if ended.retried else ""
        how = "" if ended.why == "done" else f"; {ended.why}: --resume sends the rest"
        return f"{ended.done:,} requests stored in {took:.1f} s{lost}{again}{how}"
