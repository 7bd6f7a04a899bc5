"""The stages of a KV-budget transition, each on its own: prepare, run, score, analyze, report.

All work on one run folder: the newest one of the same profile and parameters, unless one is named.
A stage whose inputs have not changed is skipped; one whose inputs are missing is refused. Whatever
is printed as done is in the database, so that a kill costs at most the trial under way.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from kvlab import __version__, experiments
from kvlab.command.jobs import NAME, Job, need_folder
from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition import opening, prepared, store
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.findings import Summary
from kvlab.report import build, day
from kvlab.runs import lock, status
from kvlab.runs.contract import draft
from kvlab.runs.folder import Run, new_folder
from kvlab.runs.status import Status
from kvlab.session import Lab, open_run
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.database import Database

Say = Callable[[str], None]


def prepare(job: Job, say: Say) -> Path:
    """Make the dataset and the run folder, with the tables that say what will be asked. Opens no engine.

    Raises:
        InputError: The dataset cannot be made, or cannot be asked under these budgets.
    """
    folder = job.folder or _draft(job)
    with lock.held(folder), Database(folder / DATABASE) as database:
        return _prepare(database, job, say)


def _draft(job: Job) -> Path:
    """Make a run folder whose contract has no engine yet: the first one that is opened completes it."""
    experiment = experiments.get(NAME)
    experiment.check(job.params, opening.check(job.params, job.settings))
    experiment.check_engine(job.params, None)
    contract = draft(experiment=NAME, params=prepared.identity(job.params), settings=job.settings)
    contract |= experiment.contract(job.params)
    folder = new_folder(job.outputs, NAME, job.profile)
    with lock.held(folder):
        Run.draft(
            folder,
            experiment=NAME,
            profile=job.profile,
            contract=contract,
            params=job.params.model_dump(mode="json"),
            sources=job.resolved.sources,
            isolation_id=job.params.isolation_id,
        )
        status.end(folder, Status.INTERRUPTED, reason="prepared; nothing is asked yet")
    return folder


def _prepare(database: Database, job: Job, say: Say) -> Path:
    store.put_manifest(database, prepared.manifest(job.params))
    store.write_manifest(database)
    folder = database.path.parent
    say(f"prepared: {folder}\n{store.describe(database)}")
    return folder


def run(job: Job, say: Say) -> None:
    """Ask every example under every budget that is not measured yet; with none of them, open nothing."""
    if _is_finished(need_folder(job)):
        _say_done(need_folder(job), say)
        return
    with _open(job) as lab:
        _run(lab, say)


def _run(lab: Lab[KVBudgetTransitionParams], say: Say) -> None:
    for trial in lab.pending():
        lab.measure(trial)
    _say_done(lab.folder, say)


def _say_done(folder: Path, say: Say) -> None:
    states = _states(folder)
    say(f"run: {states.count('done')} of {len(states)} trials are done")


def _states(folder: Path) -> list[str]:
    with Database(folder / DATABASE) as database:
        return [state for state, _ in database.trial_state().values()]


def _is_finished(folder: Path) -> bool:
    """Whether there are trials, and all are done."""
    return set(_states(folder)) == {"done"}


def score(job: Job, say: Say) -> None:
    """Score the answers that have no score yet; with ``--force``, all of them. Asks no model.

    Raises:
        InputError: There is no answer.
    """
    with Database(need_folder(job) / DATABASE) as database:
        if not store.count(database, "responses") + store.count(database, "failures"):
            raise InputError(
                "responses", None, "are missing: nothing was asked yet; run `kvlab kv run` first"
            )
        new, old = store.score(database, anew=job.force)
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
        store.keep_analysis(database, job.params, job.resolved.sources)
        inputs = store.analysis_inputs(database, job.params)
        stored = store.stored_summary(database)
        done = (
            stored is not None
            and store.is_done(database, "analyze", inputs)
            and not build.missing_plots(folder, stored)
        )
        if done and stored is not None and not job.force:
            say(f"analyze: up to date ({stored.verdict}: {stored.headline})")
            return stored
    summary = build.write_results(folder, experiments.get(NAME))
    with Database(folder / DATABASE) as database:
        store.keep_summary(database, summary, inputs, forced=job.force)
    say(f"analyze: {summary.verdict}: {summary.headline}")
    return summary


def report(job: Job, say: Say) -> Path:
    """Write report.md and report.html out of what `analyze` has stored; nothing is computed anew.

    Plots that are gone are drawn once more. Of a run under way the report says so, and leaves its status alone.

    Raises:
        InputError: There is no analysis, or it is older than the answers.
    """
    folder = need_folder(job)
    path, running = folder / "report.md", lock.is_held(folder)
    with Database(folder / DATABASE) as database:
        summary = store.stored_summary(database)
        done = store.is_done(database, "analyze", store.analysis_inputs(database, job.params))
        # Answers of a run under way are older than its newest ones as soon as they are analysed.
        if summary is None or not (done or running):
            fix = "is missing or older than the answers or the parameters; run `kvlab kv analyze` first"
            raise InputError("transition_summary", None, fix)
        summary = _partial(summary) if running else summary
        inputs = hashlib.sha256(f"{__version__} {summary.model_dump_json()}".encode()).hexdigest()
        fresh = store.is_done(database, "report", inputs) and path.is_file() and not job.force
    if gone := build.missing_plots(folder, summary):
        say(f"report: drawn once more, as they were gone: {', '.join(gone)}")
        build.draw_plots(folder, experiments.get(NAME), summary)
    if gone or not fresh:
        build.write_reports(folder, experiments.get(NAME).title, summary)
        with Database(folder / DATABASE) as database:
            store.mark_done(database, "report", inputs, forced=job.force)
    if not running:
        _end(folder, job)
    day.write_index(folder.parent)
    say(f"report: {'' if gone or not fresh else 'up to date, '}{path}")
    return path


def _partial(summary: Summary) -> Summary:
    """Return the summary of a run under way, which says that it is one."""
    line = "The run was under way when this was written: the answers that came before the analysis, and no others."
    partial = summary.headline.startswith("partial run: ")
    headline = summary.headline if partial else f"partial run: {summary.headline}"
    return summary.model_copy(update={"headline": headline, "limitations": [line, *summary.limitations]})


def _end(folder: Path, job: Job) -> None:
    if _is_finished(folder):
        status.end(folder, Status.COMPLETED, exit_code=0)
    else:
        status.end(folder, Status.INTERRUPTED, reason="a partial run: not all trials are measured")


def everything(job: Job, say: Say) -> Path:
    """Do all stages, each only where it is needed; a finished run needs no engine."""
    if job.folder is not None and _is_finished(job.folder):
        prepare(job, say)
        _say_done(job.folder, say)
    else:
        with _open(job) as lab:
            job = replace(job, folder=_prepare(lab.run.database, job, say))
            _run(lab, say)
    score(job, say)
    analyze(job, say)
    return report(job, say)


@contextmanager
def _open(job: Job) -> Iterator[Lab[KVBudgetTransitionParams]]:
    """Open the run under its contract, as this process's, and give it back."""
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
        status.end(lab.folder, ended, reason=reason)  # still under the folder's lock
        lab.close()
