"""The stages serve every experiment: which one, what has a meaning for it, and what is said where it has none."""

import json
import os

import pytest
import yaml

import kvlab as kv
from benchmarks.servers.process import FakeServer
from kvlab import experiments
from kvlab.command import pipeline
from kvlab.errors import InputError
from tests.command.tool import folders, kvlab, read
from tests.conftest import ROOT
from tests.golden import stored

SWEEP = {"token_targets": [300, 600], "repeats": 3, "max_tokens": 2, "manual_sections": 30}


@pytest.fixture
def sweep(tmp_path, outputs, point_at):
    """Resolve a small token sweep, whose folder says what it is."""
    folder = tmp_path / "token_sweep"
    folder.mkdir()
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(SWEEP))
    with FakeServer(base_ms=1, itl_ms=0, ms_per_uncached_token=0.02) as server:
        point_at(server)
        yield lambda *overrides, **more: pipeline.staged_run(config, list(overrides), outputs=outputs, **more)


def test_a_sweep_in_stages(sweep, outputs):
    said = []
    with pytest.raises(
        InputError, match="has no run yet with these parameters; run `kvlab stage prepare` first"
    ):
        pipeline.run(sweep(), said.append)
    folder = pipeline.prepare(sweep(), said.append)
    planned = len(sweep().experiment.plan(sweep().params, None).trials)
    assert f"trials: {planned}\n" in said[0]
    assert "requests: " in said[0]
    assert read(folder, "SELECT count(*) FROM runs") == [(0,)], "no engine was opened"
    assert pipeline.analyze(sweep(), said.append).verdict == "INVALID"
    pipeline.run(sweep(), said.append)
    assert said[-1] == f"run: {planned} of {planned} trials are done"
    assert read(folder, "SELECT count(*) FROM requests WHERE measured = 0") == [(1,)], "the warm-up"
    pipeline.score(sweep(), said.append)
    assert said[-1] == "score: the answers of token_sweep are not right or wrong: there is nothing to score"
    with pytest.raises(
        InputError, match="older than the answers or the parameters; run `kvlab stage analyze` first"
    ):
        pipeline.report(sweep(), said.append)
    summary = pipeline.analyze(sweep(), said.append)
    path = pipeline.report(sweep(), said.append)
    assert path == folder / "report.md"
    assert f"**{summary.verdict}**" in path.read_text()
    assert json.loads((folder / "status.json").read_text())["status"] == "completed"
    assert json.loads((folder / "summary.json").read_text())["results"]["pairs_complete"] == 6
    assert folders(outputs) == [folder]


def test_all_stages_at_once_and_then_nothing_again(sweep):
    said = []
    path = pipeline.everything(sweep(), said.append)
    before = read(path.parent, "SELECT count(*) FROM requests")
    said.clear()
    assert pipeline.everything(sweep(), said.append) == path
    assert read(path.parent, "SELECT count(*) FROM requests") == before
    assert [line.split(":")[1][:11] for line in said if line.startswith(("analyze", "report"))] == [
        " up to date"
    ] * 2


@pytest.fixture
def read_only(monkeypatch):
    """Make a folder one that cannot be written in; returns what is in it."""
    access = os.access

    def apply(folder):
        monkeypatch.setattr(
            os,
            "access",
            lambda path, mode: (
                access(path, mode) and not (mode & os.W_OK and folder in [path, *path.parents])
            ),
        )
        return lambda: {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return apply


def test_the_stages_of_a_run_that_is_read_only(sweep, read_only):
    """What is up to date is said to be; what would have to be written is refused in one line, and nothing changes."""
    said = []
    folder = pipeline.everything(sweep(), said.append).parent
    content = read_only(folder)
    before = content()
    for stage in (pipeline.run, pipeline.score, pipeline.analyze, pipeline.report):
        stage(sweep(), said.append)
    assert ["up to date" in line for line in said[-2:]] == [True, True]
    for stage in (pipeline.analyze, pipeline.report):
        with pytest.raises(InputError, match="is read-only; copy it to a place that can be written"):
            stage(sweep(force=True), said.append)
    with pytest.raises(InputError, match="is read-only"), pipeline.opened(sweep()):
        pass
    assert content() == before
    assert kv.load(folder).summary.verdict == json.loads((folder / "summary.json").read_text())["verdict"]


def test_no_score_is_lost_in_a_run_that_is_read_only(tmp_path, read_only):
    """A database that cannot be written is read as a copy in memory: what were scored there would be gone."""
    folder = stored.copy("kv_budget_transition", tmp_path / "run")
    content = read_only(folder)
    before = content()
    experiment = experiments.get("kv_budget_transition")
    staged = pipeline.StagedRun(experiment, None, None, "smoke", tmp_path, folder, force=True)
    with pytest.raises(InputError, match="is read-only"):
        pipeline.score(staged, lambda line: None)
    assert content() == before


def test_other_parameters_are_another_run(sweep):
    folder = pipeline.prepare(sweep(), lambda line: None)
    assert sweep().folder == folder
    assert sweep("repeats=4").folder is None
    assert sweep(new=True).folder is None
    with pytest.raises(InputError, match="has another repeats than the config, so other answers"):
        sweep("repeats=4", run=folder)


def test_what_cannot_be_measured_is_refused_and_leaves_nothing(sweep, outputs):
    with pytest.raises(InputError, match=r"^outage_s"):
        pipeline.prepare(sweep("outage_s=-1"), lambda line: None)
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("folder", "named", "found"),
    [
        ("token_sweep", None, "token_sweep"),
        ("elsewhere", None, "kv_budget_transition"),
        ("elsewhere", "token_sweep", "token_sweep"),
        ("kv_budget_transition", "token_sweep", "token_sweep"),
        ("figures", None, "kv_budget_transition"),
    ],
)
def test_whose_configuration_it_is(tmp_path, folder, named, found):
    config = tmp_path / folder / "empty.yaml"
    config.parent.mkdir()
    config.touch()
    assert pipeline.staged_run(config, [], experiment=named).experiment.name == found


def test_a_run_of_another_experiment_is_refused(sweep, tmp_path):
    folder = pipeline.prepare(sweep(), lambda line: None)
    config = tmp_path / "mine.yaml"
    config.touch()
    with pytest.raises(InputError, match="is a run of token_sweep; name a run of kv_budget_transition"):
        pipeline.staged_run(config, [], run=folder)


def test_both_names_of_the_command_and_an_unknown_experiment():
    config = str(ROOT / "params" / "token_sweep" / "smoke.yaml")
    for name in ("kv", "stage"):
        assert kvlab(name, "validate", "-c", config).stdout == f"valid: {config} (token_sweep)\n"
