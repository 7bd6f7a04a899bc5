"""``kvlab grid``: factors, levels and starts; each run a run folder, one comparison over all."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvlab.command.show import say
from kvlab.errors import EXIT_FAILED, EXIT_OK, KvlabError

if TYPE_CHECKING:
    from kvlab.comparison.grid import Cell, Grid


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(grid)


def grid(
    file: Annotated[
        Path, typer.Argument(help="GRID.yaml: experiment, profile, set, factors, starts, seed, across.")
    ],
    resume: Annotated[
        Path | None, typer.Option(help="The folder of a grid: measure what is missing in it.")
    ] = None,
    outputs: Annotated[
        Path | None, typer.Option(help="Where the folder goes (default: outputs/, or KVLAB_OUTPUTS).")
    ] = None,
) -> None:
    """Run every cell of a grid in random order, as often as it has starts, and compare all with the first."""
    from kvlab import api, paths
    from kvlab.command import show
    from kvlab.comparison import grid as grids
    from kvlab.errors import InputError
    from kvlab.runs.folder import check_outputs, new_folder

    found = grids.Grid.read(file)
    for cell in found.cells():
        _check(found, cell)
    if resume is not None and not (resume / grids.STATE).is_file():
        raise InputError("--resume", str(resume), f"holds no {grids.STATE}; name the folder of a grid")
    place = outputs or paths.outputs_dir()
    if resume is None:
        check_outputs(place)
    folder = resume or new_folder(place, "grid", found.experiment)
    say(f"grid: {folder}")
    failed = grids.run(found, folder, measure, say)
    made = grids.conclude(found, folder, api.stored_params)
    rows = ([item.second.title, item.verdict or "not comparable", item.headline] for item in made)
    show.console(160).print(show.table("cell", "verdict", "result", rows=rows))
    say(f"page: {folder / 'compare.html'}" if made else f"cells: {folder / 'cells.csv'}")
    for key in failed:
        say(f"failed for good: {key}; try again with --resume {folder}", err=True)
    raise typer.Exit(EXIT_FAILED if failed else EXIT_OK)


def _overrides(found: "Grid", cell: "Cell") -> list[str]:
    from kvlab.comparison.grid import ENGINE_ARGS

    values = {**found.set, **{name: level for name, level in cell.levels.items() if name != ENGINE_ARGS}}
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def _check(found: "Grid", cell: "Cell") -> None:
    """Refuse a cell whose parameters cannot work before any is measured."""
    from kvlab import experiments
    from kvlab.comparison.grid import ENGINE_ARGS
    from kvlab.params import resolve
    from kvlab.settings import load_settings

    given = {"kvlab_engine_args": str(cell.levels[ENGINE_ARGS])} if ENGINE_ARGS in cell.levels else {}
    settings = load_settings(**given)
    experiment = experiments.get(found.experiment)
    resolve(
        experiment.Params,
        experiment.name,
        profile=found.profile,
        overrides=_overrides(found, cell),
        settings=settings,
    )


def measure(found: "Grid", cell: "Cell", place: Path) -> Path:
    """Run a cell once, as ``kvlab run`` does. Returns its run folder.

    Raises:
        KvlabError: It failed.
    """
    from kvlab.command import runner
    from kvlab.comparison.grid import ENGINE_ARGS

    place.mkdir(parents=True, exist_ok=True)
    request = runner.Request(
        experiment=found.experiment, profile=found.profile, overrides=_overrides(found, cell), outputs=place
    )
    args = cell.levels.get(ENGINE_ARGS)
    with _environment({"KVLAB_ENGINE_ARGS": str(args)} if args is not None else {}):
        outcome = runner.run(request, say)
    if outcome.exit_code != EXIT_OK:
        raise KvlabError(outcome.reason or f"the run ended with {outcome.exit_code}")
    return outcome.folder


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for the run and its notebook, and put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
