"""Factors, levels and starts: the order is drawn, what is done is kept, every cell is compared with the first."""

import json

import pandas as pd
import pytest

from kvlab import api
from kvlab.command import gridding
from kvlab.comparison import grid as grids
from kvlab.errors import InputError, KvlabError
from tests.comparison import made

CONTENT = {
    "experiment": "token_sweep", "profile": "smoke", "factors": {"max_tokens": [2, 4], "api": ["chat", "completions"]},
    "starts": 2, "seed": 3,
}  # fmt: skip


def grid(**changes):
    return grids.Grid.of({**CONTENT, **changes}, "grid.yaml")


class Measured:
    """Makes a stored run of a cell; four tokens are slower, and a key may fail."""

    def __init__(self, fail=(), stop_after=None):
        self.asked, self.fail, self.stop_after = [], dict(fail), stop_after

    def __call__(self, found, cell, place):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(cell.name)
        if self.fail.get(cell.name, 0) > 0:
            self.fail[cell.name] -= 1
            raise KvlabError("the server went away")
        number = len(self.asked)
        factor = 1.5 if cell.levels["max_tokens"] == 4 else 1.0
        return made.run(place, f"r{id(self)}-{number}", factor=factor, seed=number, params=dict(cell.levels))


def _made(folder):
    folder.mkdir()
    return folder


def test_every_cell_is_run_as_often_as_it_has_starts_in_an_order_that_is_drawn():
    order = grid().order()
    assert len(order) == len(set(order)) == 8
    assert {key.rsplit("/")[1] for key in order[:4]} == {"1"}  # a start's cells together
    assert order == grid().order()
    assert order != grid(seed=4).order()


def test_cells_are_compared_with_the_first_and_written_in_one_place(tmp_path):
    found = grid(factors={"max_tokens": [2, 4]})
    assert grids.run(found, tmp_path, Measured(), lambda _: None) == []
    (item,) = grids.conclude(found, tmp_path, api.stored_params)
    assert item.verdict == "slower"
    assert item.starts == 2
    table = pd.read_csv(tmp_path / "cells.csv")
    assert table["cell"].tolist() == ["00_max_tokens-2", "01_max_tokens-4"]
    assert json.loads((tmp_path / "compare.json").read_text())["verdict"] == "slower"


def test_a_grid_that_was_stopped_goes_on_where_it_was(tmp_path):
    found, first, second = grid(factors={"max_tokens": [2, 4]}), Measured(stop_after=2), Measured()
    with pytest.raises(KeyboardInterrupt):
        grids.run(found, tmp_path, first, lambda _: None)
    assert grids.run(found, tmp_path, second, lambda _: None) == []
    assert len(first.asked) + len(second.asked) == 4
    assert grids.run(found, tmp_path, Measured(stop_after=0), lambda _: None) == []
    with pytest.raises(InputError, match="another grid"):
        grids.run(grid(), tmp_path, Measured(), lambda _: None)


def test_a_run_that_fails_is_tried_again_and_one_that_goes_on_failing_is_named(tmp_path):
    found = grid(factors={"max_tokens": [2, 4]}, starts=1)
    assert (
        grids.run(found, _made(tmp_path / "a"), once := Measured({"00_max_tokens-2": 1}), lambda _: None)
        == []
    )
    assert once.asked.count("00_max_tokens-2") == 2
    assert grids.run(found, _made(tmp_path / "b"), Measured({"00_max_tokens-2": 9}), lambda _: None) == [
        "00_max_tokens-2/1"
    ]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"factors": {}}, "factors"), ({"factors": {"repeats": []}}, "repeats"), ({"factors": {"repeats": [1, 1]}}, "twice"),
        ({"starts": 0}, "starts"), ({"nope": 1}, "nope"), ({"factors": {"a": list(range(100)), "b": list(range(99))}}, "19,800"),
    ],
)  # fmt: skip
def test_a_wrong_grid_is_one_line(changes, says):
    with pytest.raises(InputError, match=says):
        grid(**changes)


@pytest.mark.parametrize(
    ("factors", "says"),
    [
        ("{repeats: [1, 0]}", "repeats"),
        ("{nope: [1]}", "nope"),
        ("{engine_args: ['--port 1']}", "KVLAB_ENGINE_ARGS"),
    ],
)
def test_a_cell_that_cannot_work_is_refused_before_any_is_measured(tmp_path, factors, says):
    file = tmp_path / "grid.yaml"
    file.write_text(f"experiment: token_sweep\nprofile: smoke\nfactors: {factors}\n")
    with pytest.raises(InputError, match=says):
        gridding.grid(file, outputs=tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()
