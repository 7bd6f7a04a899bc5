"""Many runs that differ in planned ways: factors, their levels, and starts of each cell, in random order.

A cell is one choice of a level of every factor; it is run ``starts`` times, each a run folder of its own, so that a cell is
a side of several starts. The order of all runs is drawn once and stored: an hour that was slow then belongs to no level.
What is done is stored after each run, so that a grid that was stopped goes on where it was.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from kvlab.comparison import writing, yaml_file
from kvlab.comparison.comparison import Comparison, compare
from kvlab.comparison.sides import Side, StoredRun
from kvlab.errors import InputError, KvlabError
from kvlab.escape import file_name
from kvlab.runs.files import read_json, write_atomic, write_json
from kvlab.store import requests_csv

STATE = "grid.json"
MOST_RUNS = 1000
#: A factor of this name is no parameter: its levels are flags of the embedded vLLM.
ENGINE_ARGS = "engine_args"


class Grid(BaseModel):
    """A grid, as its YAML file holds it.

    Attributes:
        experiment: Its name.
        profile: A file of ``params/<experiment>/``.
        set: Parameters of all cells.
        factors: Levels by the parameter that they are of, groups with dots; or by ``engine_args``.
        starts: Runs of each cell.
        attempts: How often a run that fails is tried.
        seed: Of the order.
        across: Fields whose difference is what is compared; the factors' own parameters are among them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    experiment: str
    profile: str = "default"
    set: dict[str, Any] = {}
    factors: dict[str, Annotated[list[Any], Field(min_length=1, max_length=100)]] = Field(
        min_length=1, max_length=6
    )
    starts: int = Field(default=1, ge=1, le=100)
    attempts: int = Field(default=2, ge=1, le=10)
    seed: int = Field(default=1337, ge=0)
    across: list[str] = []

    @field_validator("factors")
    @classmethod
    def _check_levels(cls, factors: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, levels in factors.items():
            if any(levels.count(level) > 1 for level in levels):
                raise ValueError(f"{name} holds a level twice; to run it more often, raise starts")
        return factors

    @classmethod
    def read(cls, path: Path) -> "Grid":
        """Read a file.

        Raises:
            InputError: It is not there, or holds something else.
        """
        return cls.of(yaml_file.read(path, "grid", "grid"), path.name)

    @classmethod
    def of(cls, content: Any, source: str) -> "Grid":  # noqa: ANN401 - YAML
        """Check what a file holds.

        Raises:
            InputError: Something in it is missing, unknown, of another kind, or more than can be run.
        """
        found = yaml_file.checked(cls, content, source, "grid")
        if len(found.cells()) * found.starts > MOST_RUNS:
            raise InputError(
                "factors", None, f"make {len(found.cells()) * found.starts:,} runs; at most {MOST_RUNS:,}"
            )
        return found

    def cells(self) -> "list[Cell]":
        """Return every cell, in the order of the file."""
        chosen = itertools.product(*self.factors.values())
        return [
            Cell(number, dict(zip(self.factors, levels, strict=True))) for number, levels in enumerate(chosen)
        ]

    def order(self) -> list[str]:
        """Return the keys of all runs in the order of measuring: each start's cells shuffled."""
        rng, found = random.Random(self.seed), []  # noqa: S311 - an order, no secret
        for start in range(1, self.starts + 1):
            keys = [f"{cell.name}/{start}" for cell in self.cells()]
            rng.shuffle(keys)
            found += keys
        return found


@dataclass(frozen=True)
class Cell:
    """One choice of levels.

    Attributes:
        number: Its place in the file's order, from 0.
        levels: By factor.
    """

    number: int
    levels: Mapping[str, Any]

    @property
    def name(self) -> str:
        """A name for folders and tables: ``02_repeats-3``."""
        words = "_".join(f"{name.rpartition('.')[2]}-{level}" for name, level in self.levels.items())
        return f"{self.number:02}_{file_name(words, 60)}"


#: Measures a cell into a folder of its own, and returns the run folder.
Measure = Callable[[Grid, Cell, Path], Path]


def run(grid: Grid, folder: Path, measure: Measure, say: Callable[[str], None] = print) -> list[str]:
    """Measure what is left of a grid in ``folder``. Returns the keys of the runs that failed for good.

    Raises:
        InputError: The folder holds another grid, or a cell's parameters cannot work.
    """
    state = read_json(folder / STATE)
    spec = grid.model_dump(mode="json")
    if state and state.get("grid") != spec:
        raise InputError("grid", str(folder), "holds another grid; name its own file, or a new folder")
    done: dict[str, str] = dict(state.get("done", {})) if isinstance(state.get("done"), dict) else {}
    failed: dict[str, str] = {}
    cells = {cell.name: cell for cell in grid.cells()}
    order = grid.order()
    for position, key in enumerate(order, start=1):
        if key in done:
            continue
        name, start = key.rsplit("/", 1)
        why = "not tried"
        for attempt in range(1, grid.attempts + 1):
            say(
                f"[{position}/{len(order)}] {name}, start {start}"
                + (f", attempt {attempt}" if attempt > 1 else "")
            )
            try:
                found = measure(grid, cells[name], folder / name)
            except InputError:
                raise
            except KvlabError as error:
                why = " ".join(str(error).split())[:300]
                continue
            done[key] = found.resolve().relative_to(folder.resolve()).as_posix()
            break
        else:
            failed[key] = why
            say(f"  failed: {why}")
        write_json(folder / STATE, {"grid": spec, "order": order, "done": done, "failed": failed})
    return sorted(failed)


def sides(grid: Grid, folder: Path) -> list[Side]:
    """Return each cell that has a run, as a side of all its runs, in the order of the file."""
    done = read_json(folder / STATE).get("done", {})
    found = []
    for cell in grid.cells():
        folders = [
            folder / str(place) for key, place in sorted(done.items()) if key.rsplit("/", 1)[0] == cell.name
        ]
        if folders:
            found.append(Side(cell.name, tuple(StoredRun.read(path) for path in folders)))
    return found


def conclude(
    grid: Grid, folder: Path, read_params: Callable[[Mapping[str, Any]], Any]
) -> Sequence[Comparison]:
    """Compare every cell with the first, and write one page, ``cells.csv`` and ``compare.json`` into the grid's folder."""
    found = sides(grid, folder)
    across = {*grid.across, *(f"params.{name.split('.')[0]}" for name in grid.factors if name != ENGINE_ARGS)}
    made = [compare(found[0], side, read_params=read_params, across=across) for side in found[1:]]
    if made:
        writing.write(made, folder)
    write_atomic(folder / "cells.csv", requests_csv.text(_table(grid, found, made)))
    return made


def _table(grid: Grid, found: Sequence[Side], made: Sequence[Comparison]) -> pd.DataFrame:
    by_name = {side.name: side for side in found}
    verdicts = {item.second.name: item for item in made}
    rows = []
    for cell in grid.cells():
        side, item = by_name.get(cell.name), verdicts.get(cell.name)
        result = None if item is None else item.primary
        rows.append({
            "cell": cell.name, **{name: str(level) for name, level in cell.levels.items()},
            "runs": len(side.runs) if side else 0, "starts": side.starts if side else 0,
            "verdict": None if item is None else (item.verdict or "not comparable"),
            "ratio": None if result is None else result.effect.ratio, "low": result.low if result else None,
            "high": result.high if result else None, "why": str(item.refused[0]) if item and item.refused else None,
        })  # fmt: skip
    return pd.DataFrame(rows)
