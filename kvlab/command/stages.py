"""``kvlab kv`` and ``kvlab stage``: a run stage by stage, with one configuration for all of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvlab.command.options import Yes
from kvlab.command.show import say

if TYPE_CHECKING:
    from kvlab.command.pipeline import StagedRun

app = typer.Typer(
    help="A run in stages: prepare, run, score, analyze, report; or all of them. "
    "The configuration's folder says of which experiment.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Config = Annotated[
    Path,
    typer.Option("--config", "-c", help="params/<experiment>/<profile>.yaml, or a file of your own."),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="a.b=value, in YAML; may be repeated.")]
Whose = Annotated[
    str | None,
    typer.Option(
        "--experiment", help="Whose configuration it is (default: its folder's, else kv_budget_transition)."
    ),
]
Run = Annotated[
    Path | None,
    typer.Option("--run", help="A run folder or an id of `kvlab ls`, in place of the newest of this config."),
]
Outputs = Annotated[Path | None, typer.Option(help="Where run folders go.")]
New = Annotated[bool, typer.Option("--new", help="Start a new run, though there is one of this config.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Do it again, or under another contract (not: other questions), and record that."
    ),
]


def _staged_run(
    config: Path,
    set_: list[str] | None,
    experiment: str | None,
    run: Path | None = None,
    outputs: Path | None = None,
    force: bool = False,
    new: bool = False,
    yes: bool = False,
) -> "StagedRun":
    from kvlab.command import pipeline

    return pipeline.staged_run(
        config, set_ or [], experiment=experiment, run=run, outputs=outputs, new=new, force=force, yes=yes
    )


@app.command()
def validate(config: Config, set_: Set = None, experiment: Whose = None) -> None:
    """Check a configuration: exit code 0, or 2 and one line."""
    found = _staged_run(config, set_, experiment, new=True)
    say(f"valid: {config} ({found.experiment.name})")


@app.command()
def resolve(
    config: Config, set_: Set = None, experiment: Whose = None, run: Run = None, outputs: Outputs = None
) -> None:
    """Print the merged configuration, where each value comes from, and the paths."""
    import yaml

    found = _staged_run(config, set_, experiment, run, outputs)
    sources = found.resolved.sources
    say(yaml.safe_dump(found.params.model_dump(mode="json"), sort_keys=False).rstrip())
    say("# from: " + ", ".join(f"{name} {source}" for name, source in sorted(sources.items())))
    for name, place in found.params.places(found.settings).items():
        say(f"# {name}: {place}")
    new = f"{found.outputs}/<date>/<time>_{found.experiment.name}_{found.profile} (new)"
    folder = found.folder or new
    say(f"# run folder: {folder}\n# database: {folder}/run.sqlite")


def _beginning(name: str, function: str, about: str) -> None:
    """Add a command that may begin a run."""

    def begin(
        config: Config,
        set_: Set = None,
        experiment: Whose = None,
        run: Run = None,
        outputs: Outputs = None,
        force: Force = False,
        new: New = False,
        yes: Yes = False,
    ) -> None:
        from kvlab.command import pipeline

        getattr(pipeline, function)(_staged_run(config, set_, experiment, run, outputs, force, new, yes), say)

    app.command(name, help=about)(begin)


def _stage(name: str, about: str) -> None:
    """Add the command of a stage that goes on with the run of its configuration."""

    def stage(
        config: Config,
        set_: Set = None,
        experiment: Whose = None,
        run: Run = None,
        outputs: Outputs = None,
        force: Force = False,
    ) -> None:
        from kvlab.command import pipeline

        getattr(pipeline, name)(_staged_run(config, set_, experiment, run, outputs, force), say)

    app.command(name, help=about)(stage)


@app.command("run")
def measure(
    config: Config,
    set_: Set = None,
    experiment: Whose = None,
    run: Run = None,
    outputs: Outputs = None,
    force: Force = False,
    yes: Yes = False,
) -> None:
    """Measure every trial that is not measured yet."""
    from kvlab.command import pipeline

    pipeline.run(_staged_run(config, set_, experiment, run, outputs, force, yes=yes), say)


_beginning(
    "prepare",
    "prepare",
    "Make the plan, what it is made of (a dataset), and the run folder; opens no engine.",
)
_stage("score", "Score the answers that have no score yet; asks no model.")
_stage("analyze", "Judge what is stored: tables, plots, verdict.")
_stage("report", "Write report.md and report.html out of the stored analysis.")

_beginning("all", "everything", "All stages, each only where something is missing.")
