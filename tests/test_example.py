"""The example experiment in a copy of the tree: found and run, and no other file is changed for it."""

import hashlib
import json
import shutil
import signal

import pytest

from benchmarks.servers.process import FakeServer
from tests.command.tool import done, folders, kvlab, read, start, status, until
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "prefix_lifetime"
ROOMS = ("kvlab", "notebooks", "params")
TRIALS = {f"{wait}-r0{r}" for wait in ("idle-0.0", "idle-0.5", "foreign-0", "foreign-900") for r in (1, 2)}
SET = ["idle_s=[0,0.5]", "foreign_tokens=[0,900]", "prompt_tokens=300", "repeats=2", "max_tokens=3"]
STOPPED_AFTER = 31  # requests, with those of `kvlab doctor` and the probes; there are more than forty in all
RUN = ["run", "prefix_lifetime", "--profile", "smoke", *(part for value in SET for part in ("--set", value))]


def content(tree):
    return {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for room in ROOMS
        for path in (tree / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return a copy of the tree with the example in it, which `kvlab` is run from."""
    tree = tmp_path / "tree"
    for room in ROOMS:
        shutil.copytree(ROOT / room, tree / room)
        shutil.copytree(EXAMPLE / room, tree / room, dirs_exist_ok=True)
    monkeypatch.setenv("KVLAB_HOME", str(tree))
    monkeypatch.setenv("PYTHONPATH", str(tree))
    monkeypatch.chdir(tree)
    return tree


def env(server):
    return {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "EMPTY", "OPENAI_MODEL": "fake"}


def test_the_example_is_found_runs_is_resumed_and_reported_without_another_file_changed(tree, outputs):
    """The cache has room for two prompts: what only waits survives, what three others pass does not."""
    # The first trials are answered; later requests wait until the run has been stopped.
    with FakeServer(base_ms=5, itl_ms=1, capacity_blocks=40, answer_first=STOPPED_AFTER) as server:
        doctor = kvlab("doctor", **env(server))
        assert doctor.returncode == 0, doctor
        assert "prefix_lifetime" in doctor.stdout
        process = start(*RUN, **env(server))
        until(lambda: bool(folders(outputs)))
        (folder,) = folders(outputs)
        until(lambda: len(done(folder)) >= 2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        survived = done(folder)
        assert status(folder) == "interrupted"
        assert survived < TRIALS, "it was to be stopped in the middle"
        server.control(answer_first=10**9)
        resumed = kvlab("run", "prefix_lifetime", "--resume", str(folder), "--strict", **env(server))
    assert resumed.returncode == 3, resumed
    assert status(folder) == "completed"
    assert done(folder) == TRIALS
    assert {name for name in survived if f"{name} done" in resumed.stdout} == set()
    assert "FAIL" in kvlab("ls").stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["verdict"], summary["headline"]) == (
        "FAIL",
        "up to 0.5 s idle every prefix stayed; after 900 foreign tokens 0 of 2 stayed",
    )
    assert summary["results"]["all_survived_up_to"] == {"idle": 0.5, "foreign": 0}
    assert (folder / "plots" / "survival.png").stat().st_size > 0
    tokens = read(folder, "SELECT DISTINCT value FROM observations WHERE name = 'foreign_tokens' ORDER BY 1")
    assert tokens == [(0.0,), (900.0,)]
    ((waited,),) = read(
        folder, "SELECT min(value) FROM observations WHERE name = 'waited_s' AND trial_id LIKE 'idle-0.5-%'"
    )
    assert waited >= 0.5
    before = (folder / "summary.json").read_bytes()
    (folder / "summary.json").unlink()
    assert kvlab("report", str(folder)).returncode == 0
    assert (folder / "summary.json").read_bytes() == before
    ours, theirs = content(ROOT), content(EXAMPLE)
    assert not ours.keys() & theirs.keys()
    assert content(tree) == ours | theirs
