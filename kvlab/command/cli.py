"""The ``kvlab`` command. Exit codes: 0 done, 1 failed, 2 bad input, 3 not PASS under --strict."""

import os
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated

import typer

from kvlab import __version__, errors
from kvlab.command import comparing, complete, gridding, interleaving
from kvlab.command.browse import app as browse
from kvlab.command.options import ParamsFile, Profile, Set, Yes
from kvlab.command.show import say
from kvlab.command.stages import app as stages
from kvlab.command.upkeep import app as upkeep
from kvlab.errors import InputError, KvlabError

app = typer.Typer(
    name="kvlab",
    help="Measure KV-cache behaviour in LLM serving, with the cache state of every number proven.",
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(browse)
app.add_typer(upkeep)
app.add_typer(stages, name="kv")  # the name that its first experiment gave it
app.add_typer(stages, name="stage")
comparing.add_to(app)
interleaving.add_to(app)
gridding.add_to(app)

Outputs = Annotated[
    Path | None, typer.Option(help="Where run folders go (default: outputs/, or KVLAB_OUTPUTS).")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True)
def first(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Measure KV-cache behaviour in LLM serving, with the cache state of every number proven."""
    if context.invoked_subcommand is None:
        from kvlab.command import welcome

        say(welcome.text())


@app.command()
def run(
    experiment: Annotated[
        str,
        typer.Argument(
            help="Its name, for example token_sweep; all: every one, one after the other.",
            autocompletion=complete.experiments_or_all,
        ),
    ],
    profile: Profile = "default",
    params: ParamsFile = None,
    set_: Set = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="An id of `kvlab ls`, or a run folder: measure what is missing in it.",
            autocompletion=complete.runs,
        ),
    ] = None,
    outputs: Outputs = None,
    strict: Annotated[bool, typer.Option(help="Exit 3 if the verdict is not PASS.")] = False,
    force: Annotated[
        bool, typer.Option(help="With --resume: go on under another contract, and record it.")
    ] = False,
    yes: Yes = False,
) -> None:
    """Run an experiment's notebook headless, into a new run folder."""
    from kvlab.command import runner
    from kvlab.runs.find import run_folder

    if experiment == "all" and not (resume or params or set_):
        from kvlab.command import run_all

        raise typer.Exit(run_all.run(profile, outputs.resolve() if outputs else None, strict=strict, yes=yes))
    if force and resume is None:
        raise InputError("--force", None, "means something only with --resume; leave it out")
    request = runner.Request(
        experiment=experiment,
        profile=profile,
        params_file=params,
        overrides=set_ or (),
        resume=run_folder(resume, outputs, field="--resume") if resume else None,
        force=force,
        outputs=outputs.resolve() if outputs else None,
        yes=yes,
    )
    outcome = runner.run(request, say)
    if outcome.reason:
        say(f"{outcome.status}: {outcome.reason}", err=True)
    if outcome.exit_code == errors.EXIT_OK:
        say(f"report: {outcome.folder / 'report.html'}")
    if outcome.exit_code == errors.EXIT_OK and strict and runner.verdict_of(outcome.folder) != "PASS":
        raise typer.Exit(errors.EXIT_NOT_PASSED)
    if outcome.exit_code in (errors.EXIT_FAILED, errors.EXIT_INTERRUPTED):
        say(_next_step(experiment, outcome.folder, yes=yes), err=True)
    raise typer.Exit(outcome.exit_code)


def _next_step(experiment: str, folder: Path, *, yes: bool) -> str:
    """Return what to do about a run that did not end: a command only where it would work."""
    from kvlab.runs.folder import stored_experiment

    with suppress(KvlabError, sqlite3.Error):
        stored_experiment(folder)
        return f"to go on: kvlab run {shlex.quote(experiment)} --resume {shlex.quote(str(folder))}{' --yes' * yes}"
    return f"nothing is measured in {folder}: start a new run"


@app.command()
def report(
    run: Annotated[
        str,
        typer.Argument(help="An id as `kvlab ls` prints it, or a run folder.", autocompletion=complete.runs),
    ],
    to: Annotated[
        Path | None,
        typer.Option(help="A new folder for all of it, where the run folder cannot be written in."),
    ] = None,
    outputs: Outputs = None,
) -> None:
    """Write a run's summary, tables, plots and reports anew, from its database alone."""
    from kvlab import experiments
    from kvlab.report import build, day
    from kvlab.runs import lock
    from kvlab.runs.find import run_folder
    from kvlab.runs.folder import stored_experiment
    from kvlab.store.connect import FILE_NAME, reading

    folder = run_folder(run, outputs)
    with reading(folder / FILE_NAME):
        stored = stored_experiment(folder)
        if to is None and not os.access(folder, os.W_OK):
            raise InputError("run folder", str(folder), "cannot be written in; name another place with --to")
        chosen = experiments.get(stored["name"])
        copied = nullcontext(folder) if to is None else _copied(folder, to.resolve())
        with copied as folder, lock.locked_if_free(folder):
            summary = build.rebuild(folder, chosen)
            day.write_index(folder.parent)
    say(f"{summary.verdict}: {summary.headline}\nreport: {folder / 'report.html'}")


@contextmanager
def _copied(folder: Path, to: Path) -> Iterator[Path]:
    """Copy what a report is made of into a new folder; where the report then fails, nothing of it stays.

    Raises:
        InputError: The new folder is there already, or cannot be made.
    """
    made = next(path for path in (to, *to.parents) if path.parent.exists())  # the first folder that is new
    try:
        to.mkdir(parents=True)
    except FileExistsError:
        raise InputError("--to", str(to), "is there already; name a new folder") from None
    except OSError as error:
        raise InputError("--to", str(to), f"cannot be made ({error.strerror}); name another folder") from None
    try:
        for path in folder.iterdir():
            if path.is_file() and path.name.startswith(
                ("run.sqlite", "manifest.json", "status.json", "dataset_manifest")
            ):
                shutil.copyfile(path, to / path.name)
        yield to
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


@app.command()
def serve() -> None:
    """Start the embedded server and keep it up until Ctrl-C; runs and notebooks share it."""
    from kvlab.command import serve as serving

    serving.serve(say)


@app.command()
def doctor() -> None:
    """Say what is there, what each experiment can prove here, and how to fix what is missing."""
    from kvlab.command import doctor as examination

    raise typer.Exit(examination.examine())


@app.command()
def version() -> None:
    """Print the version."""
    say(__version__)


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit code 2."""
    from kvlab.command import show

    show.prepare()
    if complete.VARIABLE in os.environ:
        complete.prepare()
    command = typer.main.get_command(app)
    try:
        code = command(standalone_mode=False)
    except KvlabError as error:
        code = _ended(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _ended("stopped", errors.EXIT_INTERRUPTED)
    except BrokenPipeError:  # `kvlab ls | head`: whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = errors.EXIT_FAILED
    except (OSError, sqlite3.Error) as error:
        code = _of_the_machine(error)
    except Exception as error:
        message = getattr(error, "format_message", None)  # a usage error of the command line itself
        if message is None:
            raise
        code = _ended(f"{' '.join(message().split())}; see kvlab --help", errors.EXIT_BAD_INPUT)
    sys.exit(code if isinstance(code, int) else errors.EXIT_OK)


def _ended(message: str, code: int) -> int:
    say(f"kvlab: {message}", err=True)
    return code


def _of_the_machine(error: OSError | sqlite3.Error) -> int:
    """Say in one line what no program can help: a full disk, a folder that is not to be written in, a damaged file."""
    from kvlab.runs.files import is_no_space

    where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
    if is_no_space(error):
        return _ended(f"no space is left on the disk{where}; make room and do it again", errors.EXIT_FAILED)
    if isinstance(error, sqlite3.Error):
        return _ended(f"a database cannot be used: {error}", errors.EXIT_FAILED)
    return _ended(f"{error.strerror or error}{where}", errors.EXIT_FAILED)
