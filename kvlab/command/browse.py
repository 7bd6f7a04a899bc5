"""Commands that only read: the experiments, the runs, one run, and the report in a browser."""

import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from kvlab.command import complete
from kvlab.command.show import say

app = typer.Typer(rich_markup_mode=None)

Outputs = Annotated[
    Path | None, typer.Option(help="Where run folders are (default: outputs/, or KVLAB_OUTPUTS).")
]
Run = Annotated[
    str, typer.Argument(help="An id as `kvlab ls` prints it, or a run folder.", autocompletion=complete.runs)
]
#: Figures that a terminal shows of a run; the rest is in summary.json.
_MOST_RESULTS, _MOST_CHARACTERS = 12, 160


@app.command("experiments")
def list_experiments() -> None:
    """List the experiments: what each asks, how long its smoke profile takes, and its profiles."""
    from kvlab import experiments, paths
    from kvlab.command import show
    from kvlab.command.planning import minutes_of_notebook

    folder = paths.home() / "params"
    rows = []
    for name, experiment in sorted(experiments.registry().items()):
        profiles = sorted(path.stem for path in (folder / name).glob("*.yaml"))
        minutes = minutes_of_notebook(name)
        rows.append(
            [name, experiment.title, None if minutes is None else f"{minutes:.0f}", ", ".join(profiles)]
        )
    show.print_table("name", "question", "min", "profiles", rows=rows)
    say("min: what the committed notebook took, on two cores")


@app.command("ls")
def list_runs(outputs: Outputs = None) -> None:
    """List the runs, with status and verdict; every command takes the ids that it prints."""
    from kvlab import paths
    from kvlab.command import show
    from kvlab.report import day
    from kvlab.runs.find import run_id
    from kvlab.runs.folder import list_folders

    folder = outputs or paths.outputs_dir()
    columns = ("status", "verdict", "model", "headline")
    found = [(run_id(path), day.row(path)) for path in list_folders(folder)]
    if not found:
        say(f"no runs in {folder}")
        return
    rows = ([name, *(row[column] for column in columns)] for name, row in found)
    show.print_table("run", "status", "verdict", "model", "result", rows=rows)


def _folder(run: str, outputs: Path | None) -> Path:
    """Return the folder of a run that is to be looked at; any other folder is refused."""
    from kvlab.errors import InputError
    from kvlab.runs.find import is_run, run_folder

    folder = run_folder(run, outputs)
    if not is_run(folder):
        raise InputError("run", run, "is a folder without a run; name one that `kvlab ls` prints")
    return folder


@app.command("show")
def show_run(run: Run, outputs: Outputs = None) -> None:
    """Say what came out of a run: verdict, headline, figures, and where its files are."""
    from kvlab.command import show
    from kvlab.report import day
    from kvlab.runs.files import read_json
    from kvlab.runs.find import run_id
    from kvlab.runs.folder import SUMMARY
    from kvlab.runs.status import reconcile

    folder = _folder(run, outputs)
    row, summary, status = day.row(folder), read_json(folder / SUMMARY), reconcile(folder)
    say(
        f"{run_id(folder)}: {row['experiment'] or 'unknown experiment'}, profile {row['profile'] or 'unknown'}"
    )
    say(f"status: {row['status'] or 'unknown'}" + (f" ({status['reason']})" if status.get("reason") else ""))
    if row["verdict"]:
        say(f"{row['verdict']}: {row['headline'] or 'no headline'}")
    else:
        say(f"no verdict: nothing was analysed; kvlab report {run_id(folder)} does it")
    if rows := _figures(summary):
        show.print_table("figure", "value", "interval", rows=rows)
    for name in ("report.html", "report.md", "summary.json", "requests.csv", "notebook.ipynb", "run.sqlite"):
        if (folder / name).is_file():
            say(f"{name}: {folder / name}")


def _figures(summary: dict[str, Any]) -> list[list[object]]:
    """Return the first results of a summary, each with its interval; of what is odd, nothing."""
    results = summary.get("results")
    rows: list[list[object]] = []
    found = results if isinstance(results, dict) else {}
    for name, value in found.items():
        if isinstance(value, dict | list) or name.endswith(("_low", "_high", "_reason", "_method")):
            continue
        low, high = found.get(f"{name}_low"), found.get(f"{name}_high")
        shown = _number(value)
        if shown is not None or f"{name}_reason" in found:
            shown = shown or f"unknown: {found[f'{name}_reason']}"[:_MOST_CHARACTERS]
            both = None if low is None or high is None else f"{_number(low)} to {_number(high)}"
            rows.append([name, shown, both])
    return rows[:_MOST_RESULTS]


def _number(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)[:_MOST_CHARACTERS]


@app.command("open")
def open_run(run: Run, outputs: Outputs = None) -> None:
    """Open a run's report in a browser; where there is none, print its path."""
    from kvlab.errors import InputError
    from kvlab.runs.find import run_id

    folder = _folder(run, outputs)
    report = folder / "report.html"
    if not report.is_file():
        fix = f"has no report yet; kvlab report {run_id(folder)} writes it"
        raise InputError("run", run_id(folder), fix)
    say(f"report: {report}")
    try:
        webbrowser.get()
    except webbrowser.Error:
        return
    webbrowser.open(report.as_uri())
