"""``kvlab ab``: two configurations in turns, until it can be said which is faster."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kvlab.command.show import say


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(ab)


def ab(
    first: Annotated[
        Path, typer.Argument(help="A.yaml: experiment, profile, set, endpoint or engine_args, across.")
    ],
    second: Annotated[Path, typer.Argument(help="B.yaml: the same, with what you want to compare.")],
    block: Annotated[int, typer.Option(help="Trials a block; the two sides alternate block by block.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the order within the blocks.")] = 1337,
    outputs: Annotated[
        Path | None, typer.Option(help="Where the folder goes (default: outputs/, or KVLAB_OUTPUTS).")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Send to another machine as much as the plans say, unasked.")
    ] = False,
) -> None:
    """Measure two configurations in turns, stop as soon as it can be said; exit 0, 3, 4 or 2 as `compare` does."""
    from kvlab import api
    from kvlab.command import consent
    from kvlab.comparison import ab as interleaved
    from kvlab.comparison import writing

    sides = [interleaved.Configuration.read(path) for path in (first, second)]
    consent.require("; ".join(filter(None, map(api.objection, sides))) or None, yes=yes)
    opening = partial(api.open_configuration, yes=True)
    found = interleaved.into_new_folder(
        sides[0], sides[1], opening, outputs=outputs, block=block, seed=seed, say=say
    )
    comparison = found.comparison
    for objection in comparison.refused:
        say(f"kvlab: not comparable: {objection}", err=True)
    say(comparison.headline)
    say(f"  {len(found.blocks)} of {found.planned // max(1, block)} planned blocks were needed")
    if comparison.alarms is not None:
        say(f"  false alarms: {comparison.alarms.words}")
    for line in comparison.weakened:
        say(f"  {line}")
    say(f"page: {found.folder / writing.PAGE}")
    raise typer.Exit(comparison.exit_code)
