"""``kvlab kv``: the KV-budget transition stage by stage, with one configuration for all of them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvlab.command.show import say

if TYPE_CHECKING:
    from kvlab.command.jobs import Job

kv = typer.Typer(
    help="The KV-budget transition in stages: prepare, run, score, analyze, report; or all of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Config = Annotated[
    Path,
    typer.Option("--config", "-c", help="params/kv_budget_transition/<profile>.yaml, or a file of your own."),
]
Set = Annotated[list[str] | None, typer.Option("--set", help="a.b=value, in YAML; may be repeated.")]
Run = Annotated[
    Path | None, typer.Option("--run", help="A run folder, in place of the newest of this config.")
]
Outputs = Annotated[Path | None, typer.Option(help="Where run folders go.")]
New = Annotated[bool, typer.Option("--new", help="Start a new run, though there is one of this config.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Do it again, or under another contract (not: other questions), and record that."
    ),
]


def _job(
    config: Path,
    set_: list[str] | None,
    run: Path | None,
    outputs: Path | None,
    force: bool,
    new: bool = False,
) -> "Job":
    from kvlab.command import jobs

    return jobs.job(config, set_ or [], run=run, outputs=outputs, new=new, force=force)


@kv.command()
def validate(config: Config, set_: Set = None) -> None:
    """Check a configuration: exit code 0, or 2 and one line."""
    found = _job(config, set_, None, None, force=False, new=True)
    dataset = found.params.dataset
    shown = dataset.manifest or f"{dataset.name}__{dataset.label}"
    say(f"valid: {config} ({shown}, {len(found.params.kv.budgets)} budgets)")


@kv.command()
def resolve(config: Config, set_: Set = None, run: Run = None, outputs: Outputs = None) -> None:
    """Print the merged configuration, where each value comes from, and the paths."""
    import yaml

    from kvlab.experiments.kv_budget_transition import prepared

    found = _job(config, set_, run, outputs, force=False)
    sources = found.resolved.sources
    say(yaml.safe_dump(found.params.model_dump(mode="json"), sort_keys=False).rstrip())
    say("# from: " + ", ".join(f"{name} {source}" for name, source in sorted(sources.items())))
    say(f"# dataset: {prepared.path_of(found.params, found.settings)}")
    folder = found.folder or f"{found.outputs}/<date>/<time>_kv_budget_transition_{found.profile} (new)"
    say(f"# run folder: {folder}\n# database: {folder}/run.sqlite")


def _beginning(name: str, function: str, about: str) -> None:
    """Add a command that may begin a run."""

    def begin(
        config: Config,
        set_: Set = None,
        run: Run = None,
        outputs: Outputs = None,
        force: Force = False,
        new: New = False,
    ) -> None:
        from kvlab.command import pipeline

        getattr(pipeline, function)(_job(config, set_, run, outputs, force, new), say)

    kv.command(name, help=about)(begin)


def _stage(name: str, about: str) -> None:
    """Add the command of a stage that goes on with the run of its configuration."""

    def stage(
        config: Config, set_: Set = None, run: Run = None, outputs: Outputs = None, force: Force = False
    ) -> None:
        from kvlab.command import pipeline

        getattr(pipeline, name)(_job(config, set_, run, outputs, force), say)

    kv.command(name, help=about)(stage)


_beginning(
    "prepare", "prepare", "Make the dataset, its bins and its manifest, and the run folder; opens no engine."
)
_stage("run", "Ask every example under every budget that is not measured yet.")
_stage("score", "Score the answers that have no score yet; asks no model.")
_stage("analyze", "Aggregate by bin, look for the transition, draw the plots.")
_stage("report", "Write report.md and report.html out of the stored analysis.")

_beginning("all", "everything", "All stages, each only where something is missing.")
