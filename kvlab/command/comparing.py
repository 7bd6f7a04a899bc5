"""``kvlab compare``: stored runs against each other. Exit codes for CI: 0, 3, 4, and 2 where they may not be compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvlab.command.show import say
from kvlab.errors import EXIT_BAD_INPUT, InputError

if TYPE_CHECKING:
    from kvlab.comparison.comparison import Comparison

#: The worst first: what a gate must stop for.
_WORST = (EXIT_BAD_INPUT, 3, 4, 0)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(compare)


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Two or more: run folders, ids as `kvlab ls` prints them, or dates. The first is the base."
        ),
    ],
    metric: Annotated[
        str | None, typer.Option(help="ARM.COLUMN in place of the one that was named before the run.")
    ] = None,
    margin: Annotated[
        float | None, typer.Option(help="In place of the one that was named before the run: 0.05 is 5 %.")
    ] = None,
    across: Annotated[
        list[str] | None,
        typer.Option(
            help="A field whose difference is what you compare, so that it forbids nothing; repeatable."
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Where the page and compare.json go (default: outputs/comparisons/).")
    ] = None,
) -> None:
    """Compare stored runs: faster, slower, equivalent or undecided; exit 0, 3, 0, 4, and 2 if not comparable."""
    from kvlab import api, paths
    from kvlab.comparison import writing

    if len(runs) < 2:
        raise InputError("compare", runs[0], "is one side; name two or more")
    found = [
        api.compare(runs[0], other, metric=metric, margin=margin, across=across or ()) for other in runs[1:]
    ]
    folder = to or writing.folder_for(paths.outputs_dir(), found)
    writing.write(found, folder)
    for item in found:
        _tell(item)
    say(f"page: {folder / writing.PAGE}")
    codes = [item.exit_code for item in found]
    raise typer.Exit(next(code for code in _WORST if code in codes))


def _tell(found: "Comparison") -> None:
    if found.verdict is None:
        for objection in found.refused:
            say(f"kvlab: not comparable: {objection}", err=True)
        return
    say(found.headline)
    if found.alarms is not None:
        say(f"  false alarms: {found.alarms.words}")
    for line in found.weakened:
        say(f"  {line}")
    for result in found.others:
        if result.outcome != "undecided":
            say(
                f"  {result.metric}: {result.outcome}, ratio {result.effect.ratio:.3f} (judged at {result.confidence:.1%})"
            )
