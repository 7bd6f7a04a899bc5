"""One run from the command line: check, prepare the endpoint, papermill in a child, status, verdict."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from kvlab import errors, experiments, paths, spending
from kvlab.command import consent
from kvlab.command.headless import ERROR, EXIT_NO_SPACE
from kvlab.command.watch import done_trials, watch
from kvlab.errors import InputError, KvlabError
from kvlab.experiment import EngineFacts, Experiment
from kvlab.params import Resolved, resolve
from kvlab.report import day
from kvlab.runs import lock, status
from kvlab.runs.files import read_json, write_atomic
from kvlab.runs.folder import SUMMARY, check_outputs, new_folder, stored_experiment
from kvlab.runs.status import Status
from kvlab.settings import Settings, load_settings
from kvlab.store.connect import FILE_NAME as DATABASE


@dataclass(frozen=True)
class Request:
    """What ``kvlab run`` was asked for."""

    experiment: str
    profile: str = "default"
    params_file: Path | None = None
    overrides: Sequence[str] = ()
    resume: Path | None = None
    force: bool = False
    outputs: Path | None = None
    yes: bool = False


@dataclass(frozen=True)
class RunResult:
    """How a run ended: its folder, the exit code, one line of why."""

    folder: Path
    exit_code: int
    status: Status
    reason: str | None = None


def run(request: Request, say: Callable[[str], None] = print) -> RunResult:
    """Run an experiment to its end.

    Raises:
        InputError: Something asked for cannot work; nothing has been written.
        ServerError: The embedded server did not start; nothing has been written.
    """
    settings = load_settings()
    experiment = experiments.get(request.experiment)
    notebook = experiments.notebook(request.experiment)
    profile, resolved = _parameters(request, experiment, settings)
    plan = experiment.plan(resolved.params, request.resume)

    def check(max_model_len: int | None) -> None:
        experiment.check(resolved.params, plan, EngineFacts(max_model_len))

    check(None)
    consent.require(spending.objection(experiment, resolved.params, plan.demand, settings), yes=request.yes)
    check_outputs(request.resume or request.outputs or paths.outputs_dir())
    # Several starts need a server that nobody else uses: the notebook starts it, and ends it, itself.
    one_start = resolved.params.starts == 1
    server = experiment.open(resolved.params, settings).keep_running(check) if one_start else nullcontext()
    with _stop_on_sigterm(), ExitStack() as stack:
        if request.resume is not None:
            stack.enter_context(lock.locked(request.resume))
        stack.enter_context(server)
        folder = request.resume or new_folder(
            request.outputs or paths.outputs_dir(), experiment.name, profile
        )
        if request.resume is None:
            stack.enter_context(lock.locked(folder))
        job = {
            "notebook": str(notebook),
            "output": str(_next_notebook(folder)),
            "folder": str(folder),
            "parameters": {
                **resolved.params.model_dump(mode="json"),
                "profile": profile,
                "run_dir": str(folder),
            },
            "context": {"sources": resolved.sources, "force": request.force, "locked": True, "allowed": True},
        }
        say(f"run folder: {folder}")
        outcome = _supervise(folder, job, trials=len(plan.trials), say=say)
    day.write_index(folder.parent)
    return outcome


def _parameters(request: Request, experiment: Experiment[Any], settings: Settings) -> tuple[str, Resolved]:
    if request.resume is None:
        profile = request.params_file.stem if request.params_file else request.profile
        found = resolve(
            experiment.Params,
            experiment.name,
            profile=request.profile,
            file=request.params_file,
            overrides=request.overrides,
            settings=settings,
        )
        return profile, found
    if request.params_file or request.overrides:
        fix = "cannot be given with --resume, which goes on with the run's own; start a new run"
        raise InputError("--set" if request.overrides else "--params", None, fix)
    stored = stored_experiment(request.resume)
    if stored["name"] != experiment.name:
        raise InputError(
            "--resume", str(request.resume), f"is a run of {stored['name']}; name that experiment"
        )
    if status.reconcile(request.resume).get("status") == Status.RUNNING:
        raise InputError("--resume", str(request.resume), "is still running; wait for it, or stop it")
    return stored["profile"], Resolved(experiment.Params.check(stored["params"]), stored["sources"])


def _next_notebook(folder: Path) -> Path:
    """Return where the executed notebook goes; a resume keeps the earlier one beside it."""
    path = folder / "notebook.ipynb"
    if path.exists():
        number = len(list(folder.glob("notebook.*.ipynb"))) + 1
        path.rename(folder / f"notebook.{number}.ipynb")
    return path


def _supervise(folder: Path, job: dict[str, Any], *, trials: int, say: Callable[[str], None]) -> RunResult:
    before = (folder / status.FILE_NAME).read_bytes() if (folder / status.FILE_NAME).exists() else None
    status.begin(folder, owner="kvlab run")
    (folder / ERROR).unlink(missing_ok=True)
    child = _Child(job)
    try:
        code = watch(child.process, folder / DATABASE, trials, say, child.remember)
    except KeyboardInterrupt:
        child.end()
        reason = "stopped by the user; the trials that it printed are in the database"
        status.end(folder, Status.INTERRUPTED, exit_code=errors.EXIT_INTERRUPTED, reason=reason)
        return RunResult(folder, errors.EXIT_INTERRUPTED, Status.INTERRUPTED, reason)
    finally:
        child.end()
    error = read_json(folder / ERROR)
    (folder / ERROR).unlink(missing_ok=True)
    if code == errors.EXIT_OK:
        status.end(folder, Status.COMPLETED, exit_code=code)
        return RunResult(folder, code, Status.COMPLETED)
    if code == errors.EXIT_BAD_INPUT and not (before is None and done_trials(folder / DATABASE)):
        _leave_nothing(folder, before)
        raise NotebookInputError(error.get("message", "the notebook refused its input"))
    reason = f"{error['type']}: {error['message']}" if error else f"the notebook's process ended with {code}"
    if code == EXIT_NO_SPACE or "disk is full" in reason or "No space left" in reason:
        reason = f"no space is left on the disk of {folder}: make room; what was printed is in the database"
    status.end(folder, Status.FAILED, exit_code=errors.EXIT_FAILED, reason=reason)
    return RunResult(folder, errors.EXIT_FAILED, Status.FAILED, reason)


class NotebookInputError(KvlabError):
    """An `InputError` that only the notebook could find."""

    exit_code = errors.EXIT_BAD_INPUT


def _leave_nothing(folder: Path, status_before: bytes | None) -> None:
    """Undo what a refused run has written: all of a new folder, the status of a resumed one."""
    if status_before is None:
        shutil.rmtree(folder, ignore_errors=True)
        if not any(folder.parent.glob("*/")):
            shutil.rmtree(folder.parent, ignore_errors=True)
    else:
        write_atomic(folder / status.FILE_NAME, status_before)


class _Child:
    """The papermill process, and everything that it started."""

    def __init__(self, job: dict[str, Any]) -> None:
        env = {
            **os.environ,
            "KVLAB_HEADLESS": json.dumps(job["context"]),
            "KVLAB_HOME": str(paths.home()),
            "JUPYTER_PREFER_ENV_PATH": "1",
        }
        if (env_file := paths.env_file()) is not None:
            env["KVLAB_ENV_FILE"] = str(env_file.resolve())
        # A session of its own: Ctrl-C reaches this process alone, which then decides.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kvlab.command.headless"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=env | {"PYTHONIOENCODING": "utf-8:backslashreplace"},
            start_new_session=True,  # on Windows the next line says it
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._family: set[psutil.Process] = set()
        assert self.process.stdin is not None  # noqa: S101 - PIPE, for the type checker
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def remember(self) -> None:
        """Note who belongs to it: once it is dead, its kernel is nobody's child."""
        try:
            self._family.update(psutil.Process(self.process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return

    def end(self) -> None:
        """Cut the lifeline, and make sure that nothing is left."""
        self.remember()
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for process in self._family:
            if process.is_running():
                process.kill()


@contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Make SIGTERM an orderly interrupt, so that status and server are looked after."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def verdict_of(folder: Path) -> str | None:
    """Return the verdict of a finished run."""
    verdict = read_json(folder / SUMMARY).get("verdict")
    return None if verdict is None else str(verdict)
