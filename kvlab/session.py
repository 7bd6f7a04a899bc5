"""A session: what a notebook or a command works with while a run is open.

One session is one start of one run: an engine, a run folder with its database, and the plan with the trials
that are left. Measuring stores what it measures. Reading works at any time, also when the run is finished.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from kvlab.conclude import conclude
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import Counter, shared_start
from kvlab.errors import InputError, KvlabError
from kvlab.experiment import Experiment, Plan, UnfinishedError
from kvlab.findings import Findings, Summary
from kvlab.machine_load import LoadWatch, MachineLoad
from kvlab.params import Params
from kvlab.records import Recorded, Trial
from kvlab.report import build, day
from kvlab.runs.data import RunData
from kvlab.runs.files import write_atomic
from kvlab.runs.folder import Run
from kvlab.runs.lock import Lock
from kvlab.runs.progress import Steps
from kvlab.starts import Starts
from kvlab.store.database import Database
from kvlab.taxonomy import RETRYABLE, ErrorType
from kvlab.timing.request import Failure
from kvlab.vram.choose import server_pid

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import Image

    from kvlab.report.shown import Shown

P = TypeVar("P", bound=Params)

_LONGEST_PAUSE_S = 30.0


class _Attempt(NamedTuple):
    """One attempt at a trial: its requests, the line to print, and the failure that ended it, if one did."""

    rows: list[Recorded]
    line: str
    failure: Failure | None
    load: MachineLoad | None = None


class Session(Generic[P]):
    """An open run of an experiment.

    Attributes:
        experiment: The experiment.
        params: Its checked parameters.
        plan: The planned trials and their costs.
        engine: Sends requests and labels their cache states.
        identity: The server, its model, and what it can prove.
        counter: Counts the tokens of a prompt.
        shared_tokens: How many leading tokens all prompts share (chat template), before the marker.
        run: The run with its ids.
        trials: The planned trials, in the order of measuring.
        database: The run's database.
        folder: The run folder.
        state: What the experiment keeps while the run is open (``Experiment.session``).
        attempt: The number of the current attempt, unique within its trial.
        closed: Whether the run is finished or closed.
    """

    def __init__(
        self,
        experiment: Experiment[P],
        params: P,
        plan: Plan,
        engine: Any,  # noqa: ANN401 - the experiment knows which one it has asked for
        run: Run,
        lock: Lock | None = None,
    ) -> None:
        self.experiment, self.params, self.plan = experiment, params, plan
        self.engine, self.run = engine, run
        self.trials, self.database, self.folder = plan.trials, run.database, run.folder
        self.identity: Identity = engine.identity
        self.counter: Counter = engine.counter
        self.shared_tokens = shared_start(self.counter, *plan.samples) if plan.samples else 0
        self.attempt = 0
        self.closed = False
        self._lock = lock
        self._warm_ups = 0
        self._ids: set[str] = set()  # of the attempt under way
        self._steps: Steps | None = None
        self._found: tuple[tuple[int, int], Findings] | None = None
        self._after: RunData | None = None
        self.starts: Starts | None = None  # whoever opens the session knows how to open the engine again
        begin(run.database, plan)
        run.database.plan(run.run_id, plan.trials)
        if opening := getattr(engine, "opening", None):
            run.database.record_attempt(run.run_id, None, opening, "done")
        self._stack = ExitStack()
        self.state: Any = self._stack.enter_context(experiment.session(self))

    # What experiments use -------------------------------------------------------------------------------

    def tag(self, trial: Trial) -> str:
        """Return a text that is unique to the current attempt; markers and request ids contain it."""
        return f"{trial.trial_id}.s{self.run.session_id}.a{self.attempt}"

    def request_id(self, trial: Trial, arm: str) -> str:
        """Return the id of a request of the current attempt.

        Raises:
            InputError: This attempt already has a request of this arm; the two would have the same id.
        """
        made = f"{self.run.experiment_id}/{self.tag(trial)}/{arm}"
        if made in self._ids:
            raise InputError("arm", arm, f"is used twice in an attempt at {trial.trial_id}; number the arms")
        self._ids.add(made)
        return made

    def note(self, line: str) -> None:
        """Print a line about the current trial."""
        if self._steps is not None:
            self._steps.note(line)

    # Measuring ------------------------------------------------------------------------------------------

    def warm_up(self) -> list[Recorded]:
        """Send the warm-up requests of the plan, if it has any. They are stored, but no table or figure uses them.

        Raises:
            KvlabError: They failed for good: no trial could succeed either.
        """
        self._refuse_closed()
        trial = self.plan.warm_up
        if trial is None:
            return []
        began = time.monotonic()
        for tries in range(1, 1000):
            self._warm_ups += 1
            self.attempt = self._warm_ups
            made = self._take(trial)
            self.database.record_attempt(self.run.run_id, None, made.rows, "done", made.load)
            if made.failure is None:
                return made.rows
            pause = self.pause_s(made.failure, tries, began)
            if pause is None:
                raise KvlabError(f"the warm-up failed: {_words(made)}")
            time.sleep(pause)
        raise KvlabError("the warm-up failed a thousand times")

    def pending(self) -> Iterator[Trial]:
        """Yield the trials that are not measured yet, in planned order, and print progress.

        Raises:
            InputError: The run is closed.
        """
        self._refuse_closed()
        state = self.database.trial_state()
        left = [trial for trial in self.trials if state[trial.trial_id][0] != "done"]
        if len(left) < len(self.trials):
            print(f"{len(self.trials) - len(left)} of {len(self.trials)} are measured already", flush=True)
        self._steps = Steps(len(left), "trial")
        yield from self._steps.over(left)

    def measure(self, trial: Trial) -> list[Recorded]:
        """Measure one trial. Its rows are on disk before it is reported as done.

        A failed attempt is stored, too. If the failure is one that may pass (a timeout, a 429 or 503), the trial
        starts again after a pause, with new prompts that no cache has seen. While the server is unreachable or
        asks to wait, up to ``outage_s`` seconds, no attempt is used up.

        Returns its requests; none where it failed for good.

        Raises:
            InputError: The run is closed.
            KvlabError: The server rejects the request as invalid, so no other trial would succeed either.
        """
        self._refuse_closed()
        if self.starts is not None:
            self.starts.before(trial, self)
        began = time.monotonic()
        for tries in range(1, 1000):
            self.attempt = self.database.claim_attempt(trial.trial_id)
            if trial.commit == "each":
                return self._measure_each(trial)
            made = self._take(trial)
            pause = None if made.failure is None else self.pause_s(made.failure, tries, began)
            state = "done" if made.failure is None else "failed" if pause is None else "planned"
            self.database.record_attempt(self.run.run_id, trial.trial_id, made.rows, state, made.load)
            if made.failure is None:
                self._say(f"{trial.trial_id} done: {made.line}")
                return made.rows
            if made.failure.error_type is ErrorType.REFUSED_INPUT:
                raise KvlabError(f"{trial.trial_id}: {_words(made)}")
            if pause is None:
                self._say(f"{trial.trial_id} failed: {_words(made)}", failed=True)
                return []
            if pause > 2:
                self.note(f"{trial.trial_id}: {_words(made)}; again in {pause:.0f} s")
            time.sleep(pause)
        raise KvlabError(f"{trial.trial_id} failed a thousand times")

    def replace_engine(self, made: Callable[[Any], Any]) -> None:
        """Measure with another engine from now on: what ``made`` gives of the present one."""
        self._stack.close()  # what an experiment keeps may hold the engine
        self.engine = made(self.engine)
        self.__dict__.pop("_server_pids", None)
        self.state = self._stack.enter_context(self.experiment.session(self))

    def _take(self, trial: Trial) -> _Attempt:
        """Measure a trial once, and record the load of other processes on this machine meanwhile."""
        with LoadWatch(self._server_pids) as watch:
            made = self._requests_of(trial)
        return made._replace(load=watch.load)

    @cached_property
    def _server_pids(self) -> list[int]:
        """The server's process id, if it runs on this machine: its CPU time is not load from others."""
        connection = getattr(self.engine, "connection", None)
        if connection is None:
            return []
        lease = connection.embedded
        pid = server_pid(connection.target.base_url, None if lease is None else int(lease.pid))
        return [] if pid is None else [pid]

    def _requests_of(self, trial: Trial) -> _Attempt:
        """Send the requests of a trial; stop at the first failure that the trial did not expect."""
        rows: list[Recorded] = []
        self._ids.clear()
        measuring = self.experiment.measure(self, trial)
        while True:
            try:
                row = next(measuring)
            except StopIteration as end:
                return _Attempt(rows, end.value or f"{len(rows)} requests", None)
            rows.append(row)
            unusable = row.measurement.unusable
            if unusable is not None and not (row.expected and row.measurement.failure is not None):
                measuring.close()
                return _Attempt(rows, "", unusable)

    def _measure_each(self, trial: Trial) -> list[Recorded]:
        """Measure a trial whose requests are stored one by one, so that it can be resumed in the middle."""
        rows: list[Recorded] = []
        self._ids.clear()
        measuring = self.experiment.measure(self, trial)
        with LoadWatch(self._server_pids) as watch:
            try:
                while True:
                    row = next(measuring)
                    self.database.record_items(self.run.run_id, trial.trial_id, [row])
                    rows.append(row)
            except StopIteration as end:
                done, line = True, end.value or f"{len(rows)} requests"
            except UnfinishedError as end:
                done, line = False, str(end)
        self.database.set_trial(trial.trial_id, "done" if done else "failed", watch.load)
        self._say(f"{trial.trial_id} {'done' if done else 'failed'}: {line}", failed=not done)
        return rows

    def pause_s(self, failure: Failure, tries: int, began: float) -> float | None:
        """Return how long to wait before the next attempt, in seconds; ``None``: do not try again.

        ``tries`` attempts were made; the first one began at ``began`` (``time.monotonic``).
        """
        if failure.error_type not in RETRYABLE:
            return None
        wait: float = min(_LONGEST_PAUSE_S, 0.25 * 2**tries) * random.uniform(0.5, 1)  # noqa: S311 - jitter
        wait = max(wait, failure.retry_after_s or 0.0)
        waited = time.monotonic() - began
        # An engine in this process is never unreachable: what broke in it does not come back by waiting.
        away = failure.is_outage and self.identity.url != "in-process"
        if away and waited + wait <= self.params.outage_s:
            return wait
        return wait if tries < self.params.max_attempts and wait <= _LONGEST_PAUSE_S else None

    def _say(self, line: str, *, failed: bool = False) -> None:
        if self._steps is not None:
            self._steps.step(line, keep=failed)

    # Reading --------------------------------------------------------------------------------------------

    def data(self) -> RunData:
        """Return the stored data of the run, as far as it is measured."""
        if not self.closed:
            return RunData(self.database, identity=self.identity)
        if self._after is None:
            self._after = RunData.open(self.folder)
        return self._after

    @property
    def requests(self) -> "pd.DataFrame":
        """Every measured request so far, one per row; `kvlab.store.frames.requests` lists the columns and units."""
        return self.data().requests

    def findings(self) -> Findings:
        """Return the findings of the data so far; computed again only if rows were stored since the last call."""
        data = self.data()
        now = data.sql.total_changes, int(data.sql.execute("PRAGMA data_version").fetchone()[0])
        if self._found is None or self._found[0] != now:
            self._found = now, conclude(self.experiment, data, self.params)
        return self._found[1]

    def table(self, name: str) -> "Shown":
        """Return a table of the findings so far, with the column headers of the report.

        Raises:
            KeyError: There is no such table; the message names those there are.
        """
        from kvlab.report.headers import readable

        return readable(self.findings().table(name))

    def checks(self) -> "Shown":
        """Return the checks behind the verdict, one per row: name, asks, seen, passed, role."""
        from kvlab.report.shown import Shown

        columns = ["name", "asks", "seen", "passed", "role"]
        rows = [[getattr(check, c) for c in columns] for check in self.findings().checks]
        return Shown(rows, columns=columns, dtype=object)

    def picture(self, name: str) -> "Image":
        """Return one of the report's figures, for display in the notebook.

        Raises:
            KeyError: There is no such figure; the message names those there are.
        """
        from IPython.display import Image  # only in a notebook

        from kvlab.report.figures import png

        return Image(png(self.findings().picture(name).draw()), width=720)  # type: ignore[no-untyped-call]

    # Ending ---------------------------------------------------------------------------------------------

    def finish(self) -> Summary:
        """Write summary, tables, plots and report, close the run, and print the verdict.

        Raises:
            KvlabError: Not one trial could be measured. The report is written all the same, and says so.
        """
        if self.closed:
            summary = build.rebuild(self.folder, self.experiment).written_in(self.folder)
            self.announce(summary)
            return summary
        data = self.data()
        summary = build.write(data, self.experiment)
        measured = data.done
        self.close()
        if not measured:
            raise KvlabError("no trial could be measured; the failures are in requests.csv")
        self.on_finish()
        day.write_index(self.folder.parent)
        self.announce(summary)
        return summary.written_in(self.folder)

    def announce(self, summary: Summary) -> None:
        """Say the verdict."""
        print(f"{summary.verdict}: {summary.headline}")

    def on_finish(self) -> None:
        """Mark the run as completed. Does nothing here: the runner does it (see `kvlab.notebook`)."""

    def close(self) -> None:
        """Close the database and the engine, and release the lock. A second call does nothing."""
        if self.closed:
            return
        self.closed = True
        self._stack.close()
        self.run.close()
        self.engine.close()
        if self._lock is not None:
            self._lock.release()

    def _refuse_closed(self) -> None:
        if self.closed:
            raise InputError(
                "run",
                str(self.folder),
                "is finished or closed; open it again with run_dir, or open a new run",
            )


def begin(database: Database, plan: Plan) -> None:
    """Store the tables and files of a plan, unless they are stored already."""
    database.begin_tables(plan.tables)
    for name, content in plan.files.items():
        if not (database.path.parent / name).is_file():
            write_atomic(database.path.parent / name, content)


def _words(made: _Attempt) -> str:
    failure = made.failure
    if failure is None:
        return made.line
    return f"{failure.error_type}: {failure.message} (attempt {made.rows[-1].attempt})"
