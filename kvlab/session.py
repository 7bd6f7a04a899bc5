"""The bench that a notebook works at: one experiment, one endpoint, one run folder."""

import atexit
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pandas as pd
import stamina

from kvlab import experiments, paths
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import Counter, shared_start
from kvlab.errors import InputError, KvlabError
from kvlab.experiment import Experiment
from kvlab.findings import Summary
from kvlab.params import Params, env_layers
from kvlab.records import Recorded, Trial
from kvlab.report import build, day
from kvlab.runs import contract as manifest
from kvlab.runs import status
from kvlab.runs.folder import Run, new_folder
from kvlab.runs.lock import Lock, hold
from kvlab.runs.progress import Steps
from kvlab.settings import Settings, load_settings
from kvlab.store import frames
from kvlab.taxonomy import RETRYABLE, ErrorType

if TYPE_CHECKING:
    from IPython.display import Image
    from matplotlib.figure import Figure

P = TypeVar("P", bound=Params)

#: The labs that notebooks without a runner have opened in this process, by folder.
_of_this_kernel: "dict[Path, Lab[Any]]" = {}


class _FailedError(Exception):
    """A trial has no result; the others may."""


class _TryAgainError(_FailedError):
    """An attempt failed in a way that another may not."""


class Lab(Generic[P]):
    """An experiment under way.

    Attributes:
        params: The checked parameters.
        identity: What answers, and what it can prove.
        engine: Makes and labels requests.
        counter: Counts the tokens of a prompt.
        shared_tokens: Leading tokens that all prompts share, before the marker.
        run: The run folder and its database.
        lock: Held on the folder; ``None``: by the process that started this one.
    """

    def __init__(
        self,
        experiment: Experiment[P],
        params: P,
        engine: Any,  # noqa: ANN401 - the experiment knows which one it has asked for
        run: Run,
        lock: Lock | None = None,
    ) -> None:
        self.experiment, self.params, self.engine, self.run = experiment, params, engine, run
        self.lock = lock
        self._closed = False
        self.identity: Identity = engine.identity
        self.counter: Counter = engine.counter
        self.trials = experiment.plan(params)
        self.shared_tokens = shared_start(self.counter, *experiment.samples(params))
        self._steps: Steps | None = None
        self._drawn: tuple[int, dict[str, Figure]] | None = None
        run.database.plan(run.run_id, self.trials)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder

    def tag(self, trial: Trial, attempt: int) -> str:
        """Return what no other attempt of any session shares; markers and request ids carry it."""
        return f"{trial.trial_id}.s{self.run.session_id}.a{attempt}"

    def warm_up(self) -> list[Recorded]:
        """Make the requests that are not measured; they are stored, and in no figure.

        Raises:
            KvlabError: One fails: then nothing else would succeed either.
        """
        rows: list[Recorded] = []
        try:
            for context in self._attempts():
                with context:
                    rows = self.experiment.warm_up(self, context.num)
                    self.run.database.record_attempt(self.run.run_id, None, context.num, rows, "done")
                    _check(rows, "the warm-up")
        except _FailedError as error:
            raise KvlabError(f"the warm-up failed: {error}") from None
        return rows

    def _attempts(self) -> "Iterator[stamina.Attempt]":
        """Return as many attempts as the parameters allow, with pauses that grow, with jitter."""
        attempts = self.params.max_attempts
        yield from stamina.retry_context(_TryAgainError, attempts=attempts, wait_max=30.0, timeout=None)

    def pending(self) -> Iterator[Trial]:
        """Yield the trials that are still to be measured, in order, with progress."""
        state = self.run.database.trial_state()
        left = [trial for trial in self.trials if state[trial.trial_id][0] != "done"]
        if len(left) < len(self.trials):
            print(f"{len(self.trials) - len(left)} of {len(self.trials)} are measured already", flush=True)
        self._steps = Steps(len(left), "trial")
        yield from self._steps.over(left)

    def measure(self, trial: Trial) -> list[Recorded]:
        """Measure one trial and store it, durably, before saying so. Returns its requests, if they are few.

        A failed attempt is stored too; where another may succeed, the trial starts again from its
        beginning, with a prompt that no cache can know, after a pause that grows.

        Raises:
            KvlabError: The server refuses the request itself: nothing else would succeed either.
        """
        first = self.run.database.trial_state()[trial.trial_id][1] + 1
        if self.experiment.streams_with(self.params):
            self._stream(trial, first)
            return []
        rows: list[Recorded] = []
        try:
            for context in self._attempts():
                with context:
                    last = context.num == self.params.max_attempts
                    rows = self._attempt(trial, first + context.num - 1, last=last)
        except _FailedError as error:
            self._say(f"{trial.trial_id} failed: {error}")
            return []
        self._say(f"{trial.trial_id} done: {self.experiment.line(trial, rows)}")
        return rows

    def _stream(self, trial: Trial, number: int) -> None:
        """Measure a trial that stores its own requests; a stop or a kill leaves it to be resumed."""
        database = self.run.database
        database.set_trial(trial.trial_id, "planned", number)
        done, line = self.experiment.stream(self, trial, number)
        database.set_trial(trial.trial_id, "done" if done else "failed", number)
        self._say(f"{trial.trial_id} {'done' if done else 'failed'}: {line}")

    def note(self, line: str) -> None:
        """Say how far the trial under way is."""
        if self._steps is not None:
            self._steps.note(line)

    def _attempt(self, trial: Trial, number: int, *, last: bool) -> list[Recorded]:
        rows = self.experiment.attempt(self, trial, number)
        unwanted = [row for row in rows if not row.ok and not self.experiment.is_result(self, trial, row)]
        failure = unwanted[0].measurement.failure if unwanted else None
        again = failure is not None and failure.error_type in RETRYABLE
        outcome = "done" if failure is None else "planned" if again and not last else "failed"
        self.run.database.record_attempt(self.run.run_id, trial.trial_id, number, rows, outcome)
        _check(unwanted, trial.trial_id)
        return rows

    def _say(self, line: str) -> None:
        if self._steps is not None:
            self._steps.step(line)

    def frame(self) -> pd.DataFrame:
        """Return what the experiment makes of every measured request so far."""
        self.experiment.derive(self.run.database, self.params)
        sql = self.run.database.sql
        return self.experiment.load(sql, frames.requests(sql), self.params)

    def summary(self) -> Summary:
        """Return what the requests so far say."""
        return self._summarize(self.frame())

    def _summarize(self, frame: pd.DataFrame) -> Summary:
        return self.experiment.summarize(frame, self.params, self.run.profile, self.identity)

    def picture(self, name: str) -> "Image":
        """Return one of the report's figures, for display in the notebook."""
        from IPython.display import Image  # only in a notebook

        from kvlab.report.figures import png

        frame = self.frame()
        if self._drawn is None or self._drawn[0] != len(frame):
            summary = self._summarize(frame)
            self._drawn = len(frame), self.experiment.draw(frame, summary, self.params)
        return Image(png(self._drawn[1][name]), width=720)  # type: ignore[no-untyped-call]

    def finish(self) -> Summary:
        """Write the summary, the tables, the plots and the report; give the endpoint back.

        Raises:
            KvlabError: Not a single trial could be measured. The report says so too.
        """
        states = [state for state, _ in self.run.database.trial_state().values()]
        self.close()
        summary = build.rebuild(self.folder, self.experiment)
        if "done" not in states:
            raise KvlabError("no trial could be measured; the failures are in requests.csv")
        if self._owns_status:
            status.end(self.folder, status.Status.COMPLETED)
            self.disown_status()
        day.write_index(self.folder.parent)
        print(f"{summary.verdict}: {summary.headline}")
        return summary

    def close(self) -> None:
        """Close the database, and give engine and lock back; once is enough."""
        if self._closed:
            return
        self._closed = True
        self.experiment.close(self)
        self.run.close()
        self.engine.close()
        if self.lock is not None:
            self.lock.release()

    _owns_status = False

    def own_status(self) -> None:
        """Keep ``status.json``, as the runner would: this notebook was opened without it."""
        self._owns_status = True
        status.begin(self.folder, owner="notebook")
        atexit.register(self._abandon)

    def disown_status(self) -> None:
        """Leave ``status.json`` alone when the process ends."""
        self._owns_status = False
        atexit.unregister(self._abandon)

    def _abandon(self) -> None:
        status.end(self.folder, status.Status.INTERRUPTED, reason="the notebook ended before its last cell")


def _check(rows: Sequence[Recorded], what: str) -> None:
    """Raise for the first failure among ``rows``: in the way that says whether to go on, and how."""
    for row in rows:
        if (failure := row.measurement.failure) is None:
            continue
        text = f"{failure.error_type}: {failure.message} (attempt {row.attempt})"
        if failure.error_type is ErrorType.REFUSED_INPUT:
            raise KvlabError(f"{what}: {text}")
        raise _TryAgainError(text) if failure.error_type in RETRYABLE else _FailedError(text)


def open_lab(name: str, namespace: Mapping[str, Any]) -> Lab[Any]:
    """Open an experiment from a notebook: check its parameters, connect, make or resume the run folder.

    Args:
        name: The experiment's name.
        namespace: The notebook's ``globals()``, in which its ``parameters`` cell has left the
            parameters, ``profile`` and ``run_dir`` (set by the runner; empty: a new run folder).

    Raises:
        InputError: A parameter, a setting or the endpoint is wrong; nothing has been written.
        ServerError: The embedded server did not start.
    """
    experiment = experiments.get(name)
    settings = load_settings()
    run_dir = str(namespace.get("run_dir") or "")
    if run_dir and not Path(run_dir).is_dir():
        raise InputError(
            "run_dir", run_dir, "is not there; name a run folder, or leave it empty for a new one"
        )
    _let_go(run_dir)
    context = json.loads(os.environ.get("KVLAB_HEADLESS", "{}"))  # what else the runner knows
    params, sources = _parameters(experiment, namespace, None if run_dir else settings)
    if run_dir:
        experiment.recall(Path(run_dir), params)
    lab = open_run(
        experiment,
        params,
        settings=settings,
        folder=Path(run_dir) if run_dir else None,
        profile=str(namespace.get("profile") or "custom"),
        sources=sources | context.get("sources", {}),
        force=bool(context.get("force")),
        locked=bool(context.get("locked")),
    )
    if "KVLAB_HEADLESS" not in os.environ:
        lab.own_status()
        _of_this_kernel[lab.folder.resolve()] = lab
    return lab


def _let_go(run_dir: str) -> None:
    """Close the lab that an earlier call in this kernel has opened on the same folder: a cell may be run twice."""
    if run_dir and (before := _of_this_kernel.pop(Path(run_dir).resolve(), None)) is not None:
        before.close()
        before.disown_status()


def open_run(
    experiment: Experiment[P],
    params: P,
    *,
    settings: Settings,
    folder: Path | None,
    profile: str,
    sources: Mapping[str, str],
    force: bool = False,
    outputs: Path | None = None,
    locked: bool = False,
) -> Lab[P]:
    """Open an experiment with checked parameters, in ``folder`` or in a new run folder.

    The folder's lock is taken before the engine is opened, which can take minutes, and before
    anything is written (``locked``: by the process that started this one).

    Raises:
        InputError: A setting, the endpoint or the contract is wrong, or somebody else is writing in
            the folder; nothing has been written.
        ServerError: The embedded server did not start.
    """
    lock = hold(folder) if folder is not None and not locked else None
    try:
        engine = experiment.open_engine(params, settings, lambda length: experiment.check(params, length))
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    try:
        experiment.check_engine(params, engine)
        contract = manifest.contract(
            experiment=experiment.name,
            params=params.model_dump(mode="json"),
            identity=engine.identity,
            settings=settings,
            template_hash=experiment.template_hash(),
            counter=engine.counter.source,
        )
        if folder is None:
            folder = new_folder(outputs or paths.outputs_dir(), experiment.name, profile)
            lock = hold(folder)
        run = Run.start(
            folder,
            experiment=experiment.name,
            profile=profile,
            contract=contract | experiment.contract(params),
            params=params.model_dump(mode="json"),
            sources=sources,
            identity=engine.identity,
            isolation_id=params.isolation_id,
            force=force,
        )
        return Lab(experiment, params, engine, run, lock)
    except BaseException:
        engine.close()
        if lock is not None:
            lock.release()
        raise


def _parameters(
    experiment: Experiment[Any], namespace: Mapping[str, Any], settings: Settings | None
) -> tuple[Any, dict[str, str]]:
    """Return the checked parameters, and where each came from.

    The runner has resolved everything; a notebook by hand still has to hear the tuning keys.
    """
    kind = experiment.Params
    values = kind.collect(namespace)
    sources = dict.fromkeys(values, "notebook")
    for source, layer in env_layers(kind, settings):
        values |= layer
        sources |= dict.fromkeys(layer, source)
    kind.read_in(values, sources)
    return kind.check(values, sources), sources
