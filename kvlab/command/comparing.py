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
    calibrate: Annotated[
        bool, typer.Option(help="Take the runs as of one configuration: how often are they called different?")
    ] = False,
    plan: Annotated[
        bool, typer.Option(help="From the spread of the runs: how many starts and pairs a precision costs.")
    ] = False,
    precision: Annotated[
        float | None,
        typer.Option(help="With --plan: half of the interval wanted, 0.02 is ± 2 % (default: the margin)."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Where the page and compare.json go (default: outputs/comparisons/).")
    ] = None,
) -> None:
    """Compare stored runs: faster, slower, equivalent or undecided; exit 0, 3, 0, 4, and 2 if not comparable."""
    from kvlab import api, paths
    from kvlab.comparison import writing

    if calibrate and plan:
        raise InputError("--plan", None, "and --calibrate are two questions; ask one")
    if precision is not None and not plan:
        raise InputError("--precision", precision, "means something only with --plan; add it")
    if calibrate:
        return _calibrate(runs, metric, margin)
    if plan:
        return _plan(runs, metric, margin, precision)
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


def _calibrate(runs: list[str], metric: str | None, margin: float | None) -> None:
    from kvlab import api
    from kvlab.command import show
    from kvlab.comparison import against_itself, sides

    found = against_itself.calibrate(
        [sides.find(name) for name in runs], read_params=api.stored_params, metric=metric, margin=margin
    )
    rows = (
        [row["first"], row["second"], _number(row["ratio"]), _number(row["ratio_low"]), _number(row["ratio_high"]),
         row["outcome"], "yes" if row["disjoint"] else ""]
        for row in found.rows
    )  # fmt: skip
    columns = ("first", "second", "ratio", "low", "high", "verdict", "counts")
    show.console(160).print(show.table(*columns, rows=rows))
    say(f"{found.metric}, margin {found.margin:.0%}: false alarms {found.between.words}")
    say(f"within a start: {found.within.words}")


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _plan(runs: list[str], metric: str | None, margin: float | None, precision: float | None) -> None:
    from kvlab import api
    from kvlab.command import show
    from kvlab.comparison import planning, sides, values

    for name in runs:
        side = sides.find(name)
        params = api.stored_params(side.first.stored)
        wanted = precision or margin or params.compare_margin
        if not 0 < wanted < 1:
            raise InputError("--precision", wanted, "must lie between 0 and 1, such as 0.02")
        chosen = metric or params.compare_metric
        table = values.table(side)
        own = table[table["metric"] == chosen].reset_index(drop=True)
        if own.empty:
            raise InputError(
                "--metric", chosen, f"is not in {side.title}; it has {', '.join(values.names(table))}"
            )
        spread = planning.spread(side, own)
        say(f"{side.title}, {chosen}: {spread.words}")
        alone = planning.pairs_alone(spread, wanted)
        if alone is not None:
            say(f"  ± {wanted:.1%} takes {alone:,} pairs, if another start showed the same")
        made = planning.designs(spread, wanted)
        if made:
            rows = planning.rows(made)
            show.console(100).print(show.table(*rows[0], rows=(row.values() for row in rows)))
        elif spread.between is None:
            say("  how starts differ is unknown: run with `--set starts=3`, or name several runs (a date)")
        else:
            say(f"  {planning.MOST_STARTS} starts would not reach it: the starts differ too much")
