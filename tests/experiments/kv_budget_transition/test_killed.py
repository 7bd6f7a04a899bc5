"""However often the pipeline is killed, its database and its report are those of an uninterrupted run."""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

from kvlab.command import pipeline
from kvlab.compression.datasets.manifest import load
from kvlab.experiments import kv_budget_transition
from kvlab.report import build
from tests.conftest import ROOT

#: What says when something was done, by which session, and under which number: all else must be equal.
TIMES = {
    "sessions": None,
    "telemetry": None,
    "observations": None,  # how busy the machine was
    "stages": {
        "done_utc",
        "inputs_sha256",
        "summary_json",
    },  # with the throughput; the report is made of it, and compared
    "trials": {"attempts"},  # a killed attempt's number is spent
    "requests": {"session_id", "sent_utc", "attempt"},
    "experiments": {"created_utc", "isolation_id"},
    "kv_budgets": {"peak_memory_bytes"},
}


def content(folder):
    """Every table, as text without times and without the folder's own name."""
    found = {}
    with sqlite3.connect(folder / "run.sqlite") as sql:
        sql.row_factory = sqlite3.Row
        names = [row[0] for row in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for name in names:
            left_out = TIMES.get(name, set())
            if left_out is None:
                continue
            rows = [
                {k: row[k] for k in tuple(row.keys()) if k not in left_out}
                for row in sql.execute(f"SELECT * FROM {name}")
            ]
            texts = [str(row).replace(f"{folder.parent.name}/{folder.name}", "RUN") for row in rows]
            found[name] = sorted(re.sub(r"\.s\d+\.a\d+/", "/", text) for text in texts)
    return found


def report(folder):
    text = (folder / "report.md").read_text()
    text = text.replace(f"{folder.parent.name}/{folder.name}", "RUN")
    text = re.sub(r"started \S+, isolation id `\w+`", "started", text)
    text, tables = re.subn(r"### What each session got done\n.*?(?=\n#)", "", text, flags=re.DOTALL)
    text, lines = re.subn(r"Effective throughput: .*", "", text)
    text, starts = re.subn(r"was measured in .* of one server", "was measured", text)
    text = re.sub(r"- the machine was busy with other work .*\n", "", text)
    assert (tables, lines, starts) == (1, 1, 1)
    return text


def whole(outputs):
    """The folder whose run was completed."""
    (path,) = outputs.glob("*/*/report.md")
    return path.parent


def test_killed_at_every_commit(config, tiny, tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    module = "tests.experiments.kv_budget_transition.killed"
    arguments = [
        str(config(tiny, dataset={"n_per_bin": 2})),
        str(tmp_path / "calm"),
        str(tmp_path / "killed"),
    ]
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    killed = int(done.stdout.split()[-1])
    assert killed >= 2 * (2 * (6 + 6) + 5), (
        "6 examples, 6 of a second round, each claimed and stored, and the stages around them"
    )
    calm, broken = whole(tmp_path / "calm"), whole(tmp_path / "killed")
    assert content(calm).keys() >= {"scores", "bin_stats", "transition_summary", "added_budgets"}
    for table, rows in content(calm).items():
        assert content(broken)[table] == rows, table
    assert report(broken) == report(calm)


def test_what_is_done_is_not_done_again(job, tiny):
    said = []
    folder = pipeline.everything(job(tiny), said.append).parent
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "plots").iterdir()}
    again = []
    assert pipeline.everything(job(tiny), again.append).parent == folder
    assert any(line.startswith("score: 0 scored") for line in again)
    assert any(line.startswith("analyze: up to date") for line in again)
    assert any(line.startswith("report: up to date") for line in again)
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "plots").iterdir()} == before
    assert Path(folder / "dataset_manifest.json").is_file()


def test_the_manifest_comes_out_of_the_database(job, tiny):
    folder = pipeline.prepare(job(tiny), lambda line: None)
    path = folder / "dataset_manifest.json"
    before = path.read_bytes()
    path.unlink()
    build.rebuild(folder, kv_budget_transition.EXPERIMENT)
    assert path.read_bytes() == before
    assert load(path).dataset_id == "synthetic__single_needle"
