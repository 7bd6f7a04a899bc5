"""The stages of a run, each on its own, for every experiment: prepare, run, score, analyze, report.

All work on one run folder: the newest one of the same profile and parameters, unless one is named.
A stage whose inputs have not changed is skipped; one whose inputs are missing is refused. Whatever
is printed as done is in the database, so that a kill costs at most the trial under way.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvlab import __version__, experiments, paths, spending
from kvlab.command import consent
from kvlab.errors import InputError
from kvlab.escape import file_name
from kvlab.experiment import EngineFacts, Experiment, Plan
from kvlab.findings import Summary
from kvlab.opening import open_run
from kvlab.params import Resolved, resolve
from kvlab.report import build, day
from kvlab.runs import lock, stages, status
from kvlab.runs.contract import differences, draft
from kvlab.runs.data import RunData
from kvlab.runs.find import run_folder
from kvlab.runs.folder import Run, check_outputs, new_folder, stored_experiment
from kvlab.runs.status import Status
from kvlab.session import Session, begin
from kvlab.settings import Settings, load_settings
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.connect import is_read_only, refuse_read_only
from kvlab.store.database import Database

#: Whose configuration a file is that lies in no experiment's folder.
DEFAULT = "kv_budget_transition"

Say = Callable[[str], None]


@dataclass(frozen=True)
class StagedRun:
    """What a stage was asked for: a configuration, resolved, and the run folder that it is about.

    Attributes:
        folder: The run folder; ``None``: there is none yet.
        force: Do it again, or under another contract.
        yes: Send to another machine as much as the plan says.
    """

    experiment: Experiment[Any]
    resolved: Resolved
    settings: Settings
    profile: str
    outputs: Path
    folder: Path | None = None
    force: bool = False
    yes: bool = False

    @property
    def params(self) -> Any:  # noqa: ANN401 - the experiment's own
        """The checked parameters."""
        return self.resolved.params

    @property
    def command(self) -> str:
        """What a person types for it."""
        return "kvlab kv" if self.experiment.name == DEFAULT else "kvlab stage"

    @property
    def made(self) -> Path:
        """The run folder, which must be there.

        Raises:
            InputError: Nothing was prepared with this configuration.
        """
        if self.folder is None:
            fix = f"has no run yet with these parameters; run `{self.command} prepare` first"
            raise InputError("--config", self.profile, fix)
        return self.folder


def staged_run(
    config: Path,
    overrides: list[str],
    *,
    experiment: str | None = None,
    run: Path | None = None,
    outputs: Path | None = None,
    new: bool = False,
    force: bool = False,
    yes: bool = False,
) -> StagedRun:
    """Resolve a configuration and find its run folder.

    Args:
        config: ``params/<experiment>/<profile>.yaml``, or a file anywhere.
        overrides: ``key=value`` strings.
        experiment: Whose it is; ``None``: that of its folder's name, else `DEFAULT`.
        run: The run folder; ``None``: the newest one of the configuration.
        outputs: Where run folders are.
        new: Take no run that is there.
        force: See `StagedRun`.
        yes: See `StagedRun`.

    Raises:
        InputError: The file, a parameter, the experiment or the folder is wrong.
    """
    place = config.resolve().parent.name
    chosen = experiments.get(experiment or (place if experiments.exists(place) else DEFAULT))
    settings = load_settings()
    resolved = resolve(chosen.Params, chosen.name, file=config, overrides=overrides, settings=settings)
    top = (outputs or paths.outputs_dir()).resolve()
    found = StagedRun(chosen, resolved, settings, config.stem, top, force=force, yes=yes)
    if run is not None:
        run = run_folder(run, top, field="--run")
        _check_folder(run, found)
        return replace(found, folder=run)
    return found if new else replace(found, folder=newest(found))


def _check_folder(run: Path, staged: StagedRun) -> None:
    stored, name = stored_experiment(run), staged.experiment.name
    if stored["name"] != name:
        raise InputError("--run", str(run), f"is a run of {stored['name']}; name a run of {name}")
    changed = differences(staged.params.identity_of(stored["params"]), staged.params.run_identity)
    lasting = [field for field in changed if field not in staged.params.how_fields]
    if lasting:
        more = f" ({len(lasting) - 1} more)" if len(lasting) > 1 else ""
        fix = f"has another {lasting[0]} than the config{more}, so other answers; leave --run out for a run of its own"
        raise InputError("--run", str(run), fix)
    if changed and not staged.force:
        fix = f"has another {changed[0]} than the config; leave --run out, or --force"
        raise InputError("--run", str(run), fix)


def newest(staged: StagedRun) -> Path | None:
    """Return the newest run folder of the same profile and parameters, the analysis aside; ``None``: there is none."""
    ending = f"_{staged.experiment.name}_{file_name(staged.profile)}"  # compared as text: it may hold [ or *
    for database in sorted(staged.outputs.glob(f"*/*/{DATABASE}"), reverse=True):
        folder = database.parent
        if ending not in folder.name:
            continue
        with suppress(InputError, sqlite3.Error, ValueError):  # killed before anything was in it, or damaged
            stored = stored_experiment(folder)
            same = (stored["name"], stored["profile"]) == (staged.experiment.name, staged.profile)
            if same and not differences(
                staged.params.identity_of(stored["params"]), staged.params.run_identity
            ):
                return folder
    return None


def prepare(staged: StagedRun, say: Say) -> Path:
    """Make the run folder, the plan and what it is made of. Opens no engine.

    Raises:
        InputError: The plan cannot be made, or cannot be measured under these parameters.
    """
    plan = staged.experiment.plan(staged.params, staged.folder)
    folder = staged.folder or _draft(staged, plan)
    with lock.locked(folder), Database(folder / DATABASE) as database:
        begin(database, plan)
    _say_prepared(folder, plan, say)
    return folder


def _say_prepared(folder: Path, plan: Plan, say: Say) -> None:
    costs = [f"{what}: {amount:,}" for what, amount in plan.costs.items()]
    say("\n".join([f"prepared: {folder}", f"trials: {len(plan.trials):,}", *costs]))


def _draft(staged: StagedRun, plan: Plan) -> Path:
    """Make a run folder whose contract has no engine yet: the first one that is opened completes it."""
    check_outputs(staged.outputs)
    _check_beforehand(staged, plan)
    name = staged.experiment.name
    contract = draft(experiment=name, params=staged.params.run_identity, settings=staged.settings)
    folder = new_folder(staged.outputs, name, staged.profile)
    with lock.locked(folder):
        Run.draft(
            folder,
            experiment=name,
            profile=staged.profile,
            contract=contract | dict(plan.contract),
            params=staged.params.model_dump(mode="json"),
            sources=staged.resolved.sources,
            isolation_id=staged.params.isolation_id,
        )
        status.end(folder, Status.INTERRUPTED, reason="prepared; nothing is asked yet")
    return folder


def _check_beforehand(staged: StagedRun, plan: Plan) -> None:
    """Refuse what can be known to be wrong before anything is opened."""

    def check(max_model_len: int | None) -> None:
        staged.experiment.check(staged.params, plan, EngineFacts(max_model_len))

    opening = staged.experiment.open(staged.params, staged.settings)
    if opening.in_process is None:
        check(None)
    else:
        with opening.keep_running(check):  # of an engine of this process it starts nothing
            pass


def run(staged: StagedRun, say: Say) -> None:
    """Measure every trial that is not measured yet; with none of them, open nothing."""
    if not _is_finished(staged.made):
        with opened(staged) as session:
            _measure(session)
    _say_done(staged.made, say)


def _measure(session: Session[Any]) -> None:
    session.warm_up()
    for trial in session.pending():
        session.measure(trial)


def _say_done(folder: Path, say: Say) -> None:
    states = _states(folder)
    say(f"run: {states.count('done')} of {len(states)} trials are done")


def _states(folder: Path) -> list[str]:
    with Database(folder / DATABASE) as database:
        return [state for state, _ in database.trial_state().values()]


def _is_finished(folder: Path) -> bool:
    """Whether there are trials, and all are done."""
    return set(_states(folder)) == {"done"}


def score(staged: StagedRun, say: Say) -> None:
    """Score the answers that have no score yet; with ``force``, all of them. Asks no model.

    Raises:
        InputError: There is no answer, or the run folder is read-only and answers are to be scored.
    """
    folder, name = staged.made, staged.experiment.name
    if staged.experiment.score is None:
        say(f"score: the answers of {name} are not right or wrong: there is nothing to score")
        return
    with RunData.open(folder) as data:
        if data.sql.execute("SELECT 1 FROM requests WHERE measured = 1 LIMIT 1").fetchone() is None:
            fix = f"are missing: nothing was asked yet; run `{staged.command} run` first"
            raise InputError("responses", None, fix)
        if rows := staged.experiment.score(data, staged.force):
            refuse_read_only(data.database.path)
        with data.database.transaction():
            for row in rows:
                data.sql.execute("DELETE FROM scores WHERE request_id = ?", (row["request_id"],))
                data.database.insert("scores", **row)
        old = int(data.sql.execute("SELECT count(*) FROM scores").fetchone()[0]) - len(rows)
    say(f"score: {len(rows)} scored, {old} were scored before")


def analyze(staged: StagedRun, say: Say) -> Summary:
    """Judge and draw. Skipped where nothing that goes into it has changed.

    Raises:
        InputError: Some answer has no score, or the run folder is read-only and its analysis is not up to date.
    """
    folder = staged.made
    with Database(folder / DATABASE) as database:
        stages.keep_analysis(database, staged.params, staged.resolved.sources)
    with RunData.open(folder) as data:
        if staged.experiment.score is not None and (missing := staged.experiment.score(data, False)):
            fix = f"of {len(missing)} answers are missing; run `{staged.command} score` first"
            raise InputError("scores", None, fix)
        inputs = stages.fingerprint(data.database, staged.params)
        stored = stages.stored_summary(data.database)
        done = stored is not None and stages.is_done(data.database, "analyze", inputs)
        if stored is not None and done and not staged.force and not build.missing_plots(folder, stored):
            say(f"analyze: up to date ({stored.verdict}: {stored.headline})")
            return stored
        refuse_read_only(data.database.path)
        summary = build.write_results(data, staged.experiment)
        stages.mark_done(data.database, "analyze", inputs, forced=staged.force, summary=summary)
    say(f"analyze: {summary.verdict}: {summary.headline}")
    return summary


def report(staged: StagedRun, say: Say) -> Path:
    """Write report.md and report.html out of what `analyze` has stored; nothing is computed anew.

    Plots that are gone are drawn once more. Of a run under way the report says so, and leaves its status alone.

    Raises:
        InputError: There is no analysis, it is older than the answers, or the run folder is read-only and the report
            is not up to date.
    """
    folder = staged.made
    path, running = folder / "report.md", lock.is_locked(folder)
    with RunData.open(folder) as data:
        summary = stages.stored_summary(data.database)
        done = stages.is_done(data.database, "analyze", stages.fingerprint(data.database, staged.params))
        # Answers of a run under way are older than its newest ones as soon as they are analysed.
        if summary is None or not (done or running):
            fix = f"is missing or older than the answers or the parameters; run `{staged.command} analyze` first"
            raise InputError("analysis", None, fix)
        summary = _partial(summary) if running else summary
        inputs = hashlib.sha256(f"{__version__} {summary.model_dump_json()}".encode()).hexdigest()
        fresh = stages.is_done(data.database, "report", inputs) and path.is_file() and not staged.force
        gone, read_only = build.missing_plots(folder, summary), is_read_only(data.database.path)
        if gone or not fresh:
            refuse_read_only(data.database.path)
        if gone:
            say(f"report: drawn once more, as they were gone: {', '.join(gone)}")
            build.draw_plots(data, staged.experiment)
        if gone or not fresh:
            build.write_reports(data, staged.experiment.title, summary)
            stages.mark_done(data.database, "report", inputs, forced=staged.force)
    if not (running or read_only):
        _end(folder)
    day.write_index(folder.parent)
    say(f"report: {'' if gone or not fresh else 'up to date, '}{path}")
    return path


def _partial(summary: Summary) -> Summary:
    """Return the summary of a run under way, which says that it is one."""
    line = "The run was under way when this was written: the answers that came before the analysis, and no others."
    partial = summary.headline.startswith("partial run: ")
    headline = summary.headline if partial else f"partial run: {summary.headline}"
    return summary.model_copy(update={"headline": headline, "limitations": [line, *summary.limitations]})


def _end(folder: Path) -> None:
    if _is_finished(folder):
        status.end(folder, Status.COMPLETED, exit_code=0)
    else:
        status.end(folder, Status.INTERRUPTED, reason="a partial run: not all trials are measured")


def everything(staged: StagedRun, say: Say) -> Path:
    """Do all stages, each only where it is needed; a finished run needs no engine."""
    if staged.folder is not None and _is_finished(staged.folder):
        prepare(staged, say)
    else:
        check_outputs(staged.outputs)
        with opened(staged) as session:
            staged = replace(staged, folder=session.folder)
            _say_prepared(session.folder, session.plan, say)
            _measure(session)
    _say_done(staged.made, say)
    score(staged, say)
    analyze(staged, say)
    return report(staged, say)


@contextmanager
def opened(staged: StagedRun) -> Iterator[Session[Any]]:
    """Open the run under its contract, as this process's, and give it back."""
    plan = staged.experiment.plan(staged.params, staged.folder)
    consent.require(
        spending.objection(staged.experiment, staged.params, plan.demand, staged.settings), yes=staged.yes
    )
    session = open_run(
        staged.experiment,
        staged.params,
        settings=staged.settings,
        folder=staged.folder,
        profile=staged.profile,
        sources=staged.resolved.sources,
        force=staged.force,
        outputs=staged.outputs,
        allowed=True,
    )
    status.begin(session.folder, owner=staged.command)
    ended, reason = Status.INTERRUPTED, "a stage was stopped; what it printed is in the database"
    try:
        yield session
        reason = "a stage is done; the next ones are to come"
    except Exception as error:
        ended, reason = Status.FAILED, f"{type(error).__name__}: {error}"
        raise
    finally:
        status.end(session.folder, ended, reason=reason)  # still under the folder's lock
        session.close()
