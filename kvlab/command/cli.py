"""The ``kvlab`` command. Exit codes: 0 done, 1 failed, 2 bad input, 3 not PASS under --strict."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from kvlab import __version__, errors
from kvlab.command.stages import kv
from kvlab.errors import InputError, KvlabError

app = typer.Typer(
    name="kvlab",
    help="Measure KV-cache behaviour in LLM serving, with the cache state of every number proven.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.add_typer(kv, name="kv")

Outputs = Annotated[
    Path | None, typer.Option(help="Where run folders go (default: outputs/, or KVLAB_OUTPUTS).")
]


@app.command()
def run(
    experiment: Annotated[str, typer.Argument(help="Its name, for example token_sweep.")],
    profile: Annotated[str, typer.Option(help="A file of params/<experiment>/, without .yaml.")] = "default",
    params: Annotated[
        Path | None, typer.Option(help="A YAML file of your own, in place of a profile.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, in YAML; may be repeated.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="A run folder: measure what is missing in it.")] = None,
    outputs: Outputs = None,
    strict: Annotated[bool, typer.Option(help="Exit 3 if the verdict is not PASS.")] = False,
    force: Annotated[
        bool, typer.Option(help="With --resume: go on under another contract, and record it.")
    ] = False,
) -> None:
    """Run an experiment's notebook headless, into a new run folder."""
    from kvlab.command import runner

    if force and resume is None:
        raise InputError("--force", None, "means something only with --resume; leave it out")
    request = runner.Request(
        experiment=experiment,
        profile=profile,
        params_file=params,
        overrides=set_ or (),
        resume=resume.resolve() if resume else None,
        force=force,
        outputs=outputs.resolve() if outputs else None,
    )
    outcome = runner.run(request)
    if outcome.reason:
        typer.echo(f"{outcome.status}: {outcome.reason}", err=True)
    if outcome.exit_code == errors.EXIT_OK:
        typer.echo(f"report: {outcome.folder / 'report.html'}")
    if outcome.exit_code == errors.EXIT_OK and strict and runner.verdict_of(outcome.folder) != "PASS":
        raise typer.Exit(errors.EXIT_NOT_PASSED)
    if outcome.exit_code == errors.EXIT_FAILED or outcome.exit_code == errors.EXIT_INTERRUPTED:
        typer.echo(f"to go on: kvlab run {experiment} --resume {outcome.folder}", err=True)
    raise typer.Exit(outcome.exit_code)


@app.command("ls")
def list_runs(outputs: Outputs = None) -> None:
    """List the runs, with status and verdict."""
    from rich.console import Console
    from rich.table import Table

    from kvlab import paths
    from kvlab.report import day
    from kvlab.runs.folder import list_folders

    folder = outputs or paths.outputs_dir()
    table = Table("run", "status", "verdict", "model", "result", box=None, pad_edge=False)
    for path in list_folders(folder):
        found = day.row(path)
        name = f"{path.parent.name}/{path.name}"
        table.add_row(name, *(found[key] or "–" for key in ("status", "verdict", "model", "headline")))
    if table.row_count:
        Console(width=None if sys.stdout.isatty() else 200).print(table)
    else:
        typer.echo(f"no runs in {folder}")


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write a run's summary, tables, plots and reports anew, from its database alone."""
    from kvlab import experiments
    from kvlab.report import build, day
    from kvlab.runs.folder import stored_experiment

    folder = folder.resolve()
    stored = stored_experiment(folder)
    summary = build.rebuild(folder, experiments.get(stored["name"]))
    day.write_index(folder.parent)
    typer.echo(f"{summary.verdict}: {summary.headline}\nreport: {folder / 'report.html'}")


@app.command()
def serve() -> None:
    """Start the embedded server and keep it up until Ctrl-C; runs and notebooks share it."""
    from kvlab.command import serve as serving

    serving.serve(typer.echo)


@app.command()
def doctor() -> None:
    """Say what is there, what each experiment can prove here, and how to mend what is missing."""
    from kvlab.command import doctor as examination

    raise typer.Exit(examination.examine())


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command; a user's mistake is one line on standard error and exit code 2."""
    command = typer.main.get_command(app)
    try:
        code = command(standalone_mode=False)
    except KvlabError as error:
        typer.echo(f"kvlab: {error}", err=True)
        code = error.exit_code
    except KeyboardInterrupt:
        typer.echo("kvlab: stopped", err=True)
        code = errors.EXIT_INTERRUPTED
    except Exception as error:
        message = getattr(error, "format_message", None)  # a usage error of the command line itself
        if message is None:
            raise
        typer.echo(f"kvlab: {' '.join(message().split())}; see kvlab --help", err=True)
        code = errors.EXIT_BAD_INPUT
    sys.exit(code if isinstance(code, int) else errors.EXIT_OK)
