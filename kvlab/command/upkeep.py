"""Commands before and after runs: what a run will take, what is left of runs that did not end, completion."""

from pathlib import Path
from typing import Annotated

import typer

from kvlab.command import complete
from kvlab.command.options import ParamsFile, Profile, Set
from kvlab.command.show import say

app = typer.Typer(rich_markup_mode=None)

Outputs = Annotated[
    Path | None, typer.Option(help="Where run folders are (default: outputs/, or KVLAB_OUTPUTS).")
]


@app.command("plan")
def plan(
    experiment: Annotated[
        str, typer.Argument(help="Its name, for example token_sweep.", autocompletion=complete.experiments)
    ],
    profile: Profile = "default",
    params: ParamsFile = None,
    set_: Set = None,
    outputs: Outputs = None,
) -> None:
    """Say what a run would take: requests, tokens, time and money. Sends nothing."""
    from kvlab import experiments
    from kvlab.command import planning
    from kvlab.params import resolve
    from kvlab.settings import load_settings

    settings, found = load_settings(), experiments.get(experiment)
    resolved = resolve(
        found.Params, found.name, profile=profile, file=params, overrides=set_ or (), settings=settings
    )
    say("\n".join(planning.lines(found, resolved, settings, planning.outputs_of(outputs))))


@app.command("clean")
def clean(
    experiment: Annotated[
        str | None, typer.Option(help="Only runs of it.", autocompletion=complete.experiments)
    ] = None,
    older_than: Annotated[
        float, typer.Option("--older-than", min=0, help="Only runs that began so many days ago, or earlier.")
    ] = 0.0,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete what is listed; without it, nothing is.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="With --delete: do not ask.")] = False,
    outputs: Outputs = None,
) -> None:
    """List runs that failed or did not end, and with --delete delete them; never one under way or completed."""
    from kvlab import experiments
    from kvlab.command import cleaning, consent, planning
    from kvlab.runs.find import run_id

    if experiment is not None:
        experiments.get(experiment)
    top = planning.outputs_of(outputs)
    found = cleaning.unfinished(top, experiment, older_than)
    for item in found:
        say(f"{run_id(item.folder)}  {item.status}  {item.done} of {item.trials} trials  {item.mib:.1f} MiB")
    if not found:
        say(f"no failed or unfinished runs in {top}")
        return
    size = sum(item.mib for item in found)
    if not delete:
        say(f"{len(found)} runs, {size:.1f} MiB; nothing is deleted without --delete")
        return
    consent.require(
        f"{len(found)} runs, {size:.1f} MiB, will be deleted for good",
        yes=yes,
        otherwise="nothing was deleted",
    )
    for item in found:
        say(
            f"{'deleted' if cleaning.delete(item.folder) else 'left alone: it is under way again'}: {run_id(item.folder)}"
        )


@app.command("completion")
def completion(
    shell: Annotated[
        str, typer.Argument(help="bash, zsh or fish.", autocompletion=lambda: ["bash", "zsh", "fish"])
    ],
) -> None:
    """Print a shell's completion script, for example: eval "$(kvlab completion bash)"."""
    from kvlab.errors import InputError

    if shell not in ("bash", "zsh", "fish"):
        raise InputError("shell", shell, "is not known here; choose bash, zsh or fish")
    typer.echo(complete.script(shell))
