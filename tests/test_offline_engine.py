"""Prefix hit against miss on vLLM itself, in a notebook's process, with the packaged model."""

import json
import os
import signal
import sqlite3

import pytest

from kvlab.evidence import full_hit_tokens
from tests.command.tool import alive, family, folders, kvlab, start, status, until

TINY = {"sizes": "[[256,64]]", "num_trials": 5, "warmup_trials": 1, "max_output_tokens": 3, "settle_ms": 0}
RUN = [
    "run",
    "prefix_hit_miss",
    *(part for name, value in TINY.items() for part in ("--set", f"{name}={value}")),
]
BLOCK = 32
pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("alone")]


def read(folder, query):
    with sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True) as sql:
        return sql.execute(query).fetchall()


def cached(folder, trial, arm="%/ttft"):
    """Cached tokens of the prompts of some trials, in the order of the plan."""
    query = (
        "SELECT p.prompt_tokens, p.cached_tokens FROM requests r JOIN responses p USING (request_id) "
        f"JOIN trials t USING (trial_id) WHERE t.trial_id LIKE '%{trial}%' AND r.arm LIKE '{arm}' ORDER BY t.ordinal"
    )
    return read(folder, query)


def test_as_written_misses_are_hits_and_verified_ones_are_not(outputs):
    result = kvlab(*RUN)
    assert result.returncode == 0, result
    (folder,) = folders(outputs)
    misses = cached(folder, ".as_written.miss.")
    assert [found for _, found in misses] == [0] + [full_hit_tokens(n, BLOCK) for n, _ in misses[1:]]
    for kind in ("ttft", "throughput"):
        assert {found for _, found in cached(folder, ".verified.miss", f"%/{kind}")} == {0}
        assert {found for _, found in cached(folder, ".verified.hit", f"%/{kind}")} == {320}
    assert {length for length, _ in cached(folder, ".verified.miss_same_length")} == {
        length for length, _ in cached(folder, ".verified.hit")
    }
    check_report(folder)
    counters = read(folder, "SELECT evidence_json FROM responses")
    evidence = [json.loads(row[0]) for row in counters]
    assert all(item["usage_tokens"] == item["metrics_tokens"] for item in evidence), (
        "the engine's two accounts"
    )


def check_report(folder):
    summary = json.loads((folder / "summary.json").read_text())
    found = summary["results"]
    assert (found["as_written_misses_read_from_cache"], found["as_written_misses"]) == (5, 5)
    assert (found["verified_proven"], found["verified_planned"]) == (15, 15)
    assert found["resets_confirmed"] == found["resets_asked"] > 0
    assert found["greedy_compared"] == 5
    # Times are the machine's affair here: contexts this short may not settle a verdict on a busy one.
    assert summary["verdict"] in ("PASS", "INVALID")
    assert "5 of 5" in summary["reasons"][0]
    names = {path.name for path in folder.iterdir()}
    assert {"results_phase2_a256_b64.json", "results_phase2_verified_a256_b64.json"} <= names
    assert "experiment1_all_configs_phase2.png" in names
    report = (folder / "report.md").read_text()
    assert summary["reasons"][0] in report
    facts = json.loads((folder / "manifest.json").read_text())["endpoint_identity"]["facts"]
    assert all(fact["holds"] for fact in facts.values()), facts


def test_sigkill_and_resume_label_the_first_trial_by_evidence(outputs):
    process = start(*RUN, "--set", "settle_ms=500")
    until(lambda: bool(folders(outputs)), 60)
    (folder,) = folders(outputs)
    done = "SELECT count(*) FROM trials WHERE status = 'done'"
    until(lambda: (folder / "manifest.json").exists(), 180)
    until(lambda: len(cached(folder, ".as_written.miss.")) >= 3, 120)
    everyone = family(process.pid)
    kernel = next(member for member in everyone if "ipykernel" in " ".join(member.cmdline()))
    assert not kernel.children(recursive=True), "the engine has no process of its own"
    os.kill(kernel.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    until(lambda: not alive(everyone), 30)
    assert (process.returncode, status(folder)) == (1, "failed")
    before = read(folder, done)[0][0]
    resumed = kvlab("run", "prefix_hit_miss", "--resume", str(folder))
    assert resumed.returncode == 0, resumed
    assert status(folder) == "completed"
    planned = read(folder, "SELECT count(*) FROM trials")[0][0]
    assert before < planned == read(folder, done)[0][0]
    first = read(folder, "SELECT trial_id, arm, cached_tokens, cache_state FROM requests JOIN responses USING "
                 "(request_id) JOIN telemetry USING (request_id) WHERE session_id = 2 ORDER BY sent_ns")  # fmt: skip
    assert ".as_written.miss." in first[0][0]
    assert first[0][1:] == ("miss/rewarm", 0, "cold")
    assert first[1][1:] == ("miss/ttft", 0, "cold"), "a new engine knows nothing, whatever the trial's place"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["results"]["verified_proven"] == 15
