"""The stored runs give the results that they gave before: every text byte for byte, every plot by name."""

import hashlib

import pytest

from kvlab import experiments
from kvlab.report import build
from kvlab.runs.data import RunData
from tests.golden import stored

NAMES = stored.names()


def test_every_experiment_has_a_stored_run():
    assert sorted(experiments.registry()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_run_gives_its_results_and_the_same_again(name, tmp_path):
    source = stored.HERE / name / "run.sqlite"
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    folder = stored.copy(name, tmp_path / name)
    found, wanted = stored.rebuilt(name, folder), stored.expected(name)
    assert sorted(found) == sorted(wanted)
    for file in wanted:
        assert found[file].decode() == wanted[file].decode(), f"{file}: see tests/golden/README.md"
    html, plots = folder / "report.html", sorted((folder / "plots").iterdir())
    first = [path.read_bytes() for path in (html, *plots)]
    assert stored.rebuilt(name, folder) == found, "a second time"
    assert [path.read_bytes() for path in (html, *plots)] == first, "a second time"
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    assert not list(source.parent.glob("run.sqlite-*"))


@pytest.mark.parametrize("name", NAMES)
def test_the_plots_are_the_announced_figures(name, tmp_path):
    with RunData.open(stored.copy(name, tmp_path / name)) as data:
        summary = build.write_results(data, experiments.get(name))
    drawn = stored.expected(name)[stored.PLOTS].decode().split()
    announced = [f"{figure.name}.{form}" for figure in summary.figures for form in ("png", "svg")]
    assert sorted(announced) == drawn


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_run_speaks_of_no_machine(name):
    for path in (stored.HERE / name).rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert not [place for place in (b"/home/", b"/root/", b"/tmp/", b"/work/") if place in content], path
