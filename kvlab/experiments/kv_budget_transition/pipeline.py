"""The stages of a KV-budget transition, each on its own: prepare, run, score, analyze, report.

All work on one run folder: the newest one of the same profile and parameters, unless one is named.
A stage whose inputs have not changed is skipped; one whose inputs are missing is refused. Whatever
is printed as done is in the database, so that a kill costs at most the trial under way.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from kvlab import experiments, paths, status
from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition import prepared, store
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.experiments.lab import Lab, open_run
from kvlab.params import Resolved, resolve
from kvlab.report import build, day
from kvlab.run import stored_experiment
from kvlab.settings import Settings, load_settings
from kvlab.status import Status
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.database import Database
from kvlab.summary import Summary

NAME = "kv_budget_transition"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """What a stage was asked for, resolved.

    Attributes:
        folder: The run folder; ``None``: there is none yet.
    """

    resolved: Resolved
    settings: Settings
    profile: str
    outputs: Path
    folder: Path | None
    force: bool = False

    @property
    def params(self) -> KVBudgetTransitionParams:
        """The checked parameters."""
        assert isinstance(self.resolved.params, KVBudgetTransitionParams)  # noqa: S101 - for the type checker
        return self.resolved.params


def job(
    config: Path,
    overrides: list[str],
    *,
    run: Path | None = None,
    outputs: Path | None = None,
    new: bool = False,
    force: bool = False,
) -> Job:
    """Resolve a configuration and find its run folder.

    Raises:
        InputError: The file, a parameter or the folder is wrong.
    """
    settings = load_settings()
    resolved = resolve(KVBudgetTransitionParams, NAME, file=config, overrides=overrides, settings=settings)
    top = (outputs or paths.outputs_dir()).resolve()
    found = Job(resolved, settings, config.stem, top, None, force)
    if run is not None:
        _check_folder(run, found)
        return replace(found, folder=run.resolve())
    return found if new else replace(found, folder=newest(found))


def _check_folder(run: Path, job: Job) -> None:
    stored = stored_experiment(run)
    if stored["name"] != NAME:
        raise InputError("--run", str(run), f"is a run of {stored['name']}; name a run of {NAME}")
    if stored["params"] != job.params.model_dump(mode="json") and not job.force:
        raise InputError(
            "--run", str(run), "has other parameters than the config; leave --run out, or --force"
        )


def newest(job: Job) -> Path | None:
    """Return the newest run folder of the same profile and parameters; ``None``: there is none."""
    wanted = job.profile, job.params.model_dump(mode="json")
    for database in sorted(job.outputs.glob(f"*/*_{NAME}_{job.profile}*/{DATABASE}"), reverse=True):
        try:
            stored = stored_experiment(database.parent)
        except InputError:  # killed before anything was in it
            continue
        if (stored["profile"], stored["params"]) == wanted:
            return database.parent
    return None


def need_folder(job: Job) -> Path:
    """Return the run folder.

    Raises:
        InputError: Nothing was prepared with this configuration.
    """
    if job.folder is None:
        raise InputError(
            "--config", job.profile, "has no run yet with these parameters; run `kvlab kv prepare` first"
        )
    return job.folder


def prepare(job: Job, say: Say) -> Path:
    """Make the dataset and the run folder, with the tables that say what will be asked."""
    with _open(job) as lab:
        return _prepare(lab, job, say)


def _prepare(lab: Lab[KVBudgetTransitionParams], job: Job, say: Say) -> Path:
    store.put_manifest(lab.run.database, prepared.manifest(job.params))
    store.write_manifest(lab.run.database)
    say(f"prepared: {lab.folder}\n{store.describe(lab.run.database)}")
    return lab.folder


def run(job: Job, say: Say) -> None:
    """Ask every example under every budget that is not measured yet."""
    need_folder(job)
    with _open(job) as lab:
        _run(lab, say)


def _run(lab: Lab[KVBudgetTransitionParams], say: Say) -> None:
    for trial in lab.pending():
        lab.measure(trial)
    states = [state for state, _ in lab.run.database.trial_state().values()]
    say(f"run: {states.count('done')} of {len(states)} trials are done")


def score(job: Job, say: Say) -> None:
    """Score the answers that have no score yet. Asks no model.

    Raises:
        InputError: There is no answer.
    """
    with Database(need_folder(job) / DATABASE) as database:
        if not store.count(database, "responses") + store.count(database, "failures"):
            raise InputError(
                "responses", None, "are missing: nothing was asked yet; run `kvlab kv run` first"
            )
        new, old = store.score(database)
        say(f"score: {new} scored, {old} were scored before")


def analyze(job: Job, say: Say) -> Summary:
    """Aggregate, test and draw. Skipped where nothing that goes into it has changed.

    Raises:
        InputError: Some answer has no score.
    """
    folder = need_folder(job)
    with Database(folder / DATABASE) as database:
        if missing := store.unscored(database):
            raise InputError("scores", None, f"of {missing} answers are missing; run `kvlab kv score` first")
        inputs = store.analysis_inputs(database, job.params)
        stored = store.stored_summary(database)
        done = (
            stored is not None and store.is_done(database, "analyze", inputs) and _has_plots(folder, stored)
        )
        if done and stored is not None and not job.force:
            say(f"analyze: up to date ({stored.verdict}: {stored.headline})")
            return stored
    summary = build.write_results(folder, experiments.get(NAME))
    with Database(folder / DATABASE) as database:
        store.keep_summary(database, summary, inputs, forced=job.force)
    say(f"analyze: {summary.verdict}: {summary.headline}")
    return summary


def _has_plots(folder: Path, summary: Summary) -> bool:
    return all((folder / "plots" / f"{figure.name}.png").is_file() for figure in summary.figures)


def report(job: Job, say: Say) -> Path:
    """Write report.md and report.html out of what `analyze` has stored; nothing is computed anew.

    Raises:
        InputError: There is no analysis, or it is older than the answers.
    """
    folder = need_folder(job)
    path = folder / "report.md"
    with Database(folder / DATABASE) as database:
        summary = store.stored_summary(database)
        if summary is None or not store.is_done(
            database, "analyze", store.analysis_inputs(database, job.params)
        ):
            raise InputError(
                "transition_summary",
                None,
                "is missing or older than the answers; run `kvlab kv analyze` first",
            )
        inputs = hashlib.sha256(summary.model_dump_json().encode()).hexdigest()
        fresh = store.is_done(database, "report", inputs) and path.is_file() and not job.force
    if not fresh:
        build.write_reports(folder, experiments.get(NAME).title, summary)
        with Database(folder / DATABASE) as database:
            store.mark_done(database, "report", inputs, forced=job.force)
    _end(folder, job)
    day.write_index(folder.parent)
    say(f"report: {'up to date, ' if fresh else ''}{path}")
    return path


def _end(folder: Path, job: Job) -> None:
    with Database(folder / DATABASE) as database:
        states = {state for state, _ in database.trial_state().values()}
    if states - {"done"}:  # a trial that the serving has failed is open, too
        status.end(folder, Status.INTERRUPTED, reason="a partial run: not all trials are measured")
    else:
        status.end(folder, Status.COMPLETED, exit_code=0)


def everything(job: Job, say: Say) -> Path:
    """Do all stages, each only where it is needed."""
    with _open(job) as lab:
        job = replace(job, folder=_prepare(lab, job, say))
        _run(lab, say)
    score(job, say)
    analyze(job, say)
    return report(job, say)


@contextmanager
def _open(job: Job) -> Iterator[Lab[KVBudgetTransitionParams]]:
    """Open the run under its contract, as this process's, and give it back."""
    if job.folder is not None and status.reconcile(job.folder).get("status") == Status.RUNNING:
        raise InputError("--run", str(job.folder), "is still running; wait for it, or stop it")
    lab = open_run(
        experiments.get(NAME),
        job.params,
        settings=job.settings,
        folder=job.folder,
        profile=job.profile,
        sources=job.resolved.sources,
        force=job.force,
        outputs=job.outputs,
    )
    status.begin(lab.folder, owner="kvlab kv")
    ended, reason = Status.INTERRUPTED, "a stage was stopped; what it printed is in the database"
    try:
        yield lab
        reason = "a stage is done; the next ones are to come"
    except Exception as error:
        ended, reason = Status.FAILED, f"{type(error).__name__}: {error}"
        raise
    finally:
        lab.close()
        status.end(lab.folder, ended, reason=reason)
