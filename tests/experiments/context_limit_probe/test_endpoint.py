"""The probe on a server whose limit is known: through the bench of a notebook, and through the command."""

import json
import os
import signal
import subprocess
import sys

import pytest

from benchmarks.servers.process import FakeServer
from kvlab import api as kv
from kvlab.errors import InputError, KvlabError
from kvlab.experiments.context_limit_probe import ledger, material
from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome
from kvlab.store.database import Database
from kvlab.vram import timeline
from tests.command.tool import done, folders, kvlab, read, until

SMALL = {
    "profile": "test",
    "exchanges": [2, 5, 20, 40],
    "needles": 0,
    "dtypes": [],
    "replay_exchanges": 30,
    "cut_steps": 14,
    "cold_tokens": [256],
    "memory_interval_ms": 20,
    "recover_s": 0.5,
    "isolation_id": "fixed",
}


def run(**changes):
    session = kv.open("context_limit_probe", {**SMALL, **changes})
    for trial in session.pending():
        session.measure(trial)
    probes = session.run.database.sql, ledger.read(session.run.database.sql)
    return session, probes[1], session.finish()


@pytest.fixture
def server(point_at):
    with FakeServer(max_model_len=1500, base_ms=1, itl_ms=0.2, ms_per_uncached_token=0.01) as found:
        point_at(found)
        yield found


def test_the_limit_is_found_to_the_token_and_the_constants_hold(server):
    session, probes, summary = run()
    results = summary.results
    assert (results["largest_accepted_tokens"], results["smallest_failed_tokens"]) == (1499, 1500)
    assert results["limit_reason"] == ProbeOutcome.REFUSED
    assert "maximum context length is 1500" in results["limit_message"]
    assert summary.verdict == "PASS", summary.checks
    assert results["constants"]["MAX_CONTEXT_TOKENS"] == 1199
    assert (results["replay_turns"], results["replay_failures"]) == (90, 0)
    assert len([probe for probe in probes if probe.target == ledger.ENDPOINT]) < 8, (
        "the stated maximum is tried"
    )
    trims = next(table for table in summary.tables if table.name == "trims")
    states = trims.columns.index("cache states of trims")
    assert len({row[0] for row in trims.rows}) == 3, "three intervals"
    assert all("hit" not in row[states] for row in trims.rows), "a trimmed prefix is a miss"
    check_files(session.folder, results["constants"])
    with Database(session.folder / "run.sqlite") as database:
        samples, windows = timeline.samples(database.sql), timeline.windows(database.sql)
    assert "server_rss" in set(samples["series"]), "found by the port that it listens on"
    assert {"grow-00002", "replay-1.000"} <= set(windows["name"])
    assert any(table.name == "memory" and table.rows for table in summary.tables)


def check_files(folder, constants):
    """The constants can be pasted, and stand in the JSON under the names that it had from the start."""
    pasted: dict = {}
    exec((folder / "recommended.py").read_text(), pasted)
    content = json.loads((folder / "context_limit_results.json").read_text())
    for name, value in constants.items():
        assert pasted[name] == value == content["recommended"][name]
        assert f"\n{name}={value}\n" in (folder / "recommended.env").read_text()
    assert content["test_sizes"] == SMALL["exchanges"]
    assert [test["success"] for test in content["tests"]].count(False) >= 1
    assert content["vram_growth"]["kv_cache_bytes_per_token"] is None, "no child was asked for"
    assert content["maximum_tested_context"]["vram_gb"] is None
    assert all(set(test["memory_gb"]) >= {"server_rss"} for test in content["tests"]), "what the samplers saw"


@pytest.mark.parametrize("silent", [1, 1000])
def test_an_answer_without_text_is_an_answer(server, silent, monkeypatch):
    """At the limit there is room for one token, and that may have no text: the prompt was read all the same."""
    monkeypatch.setattr(material, "is_answered", lambda text, code: bool(text))
    server.control(silent_tokens=silent)
    session, probes, summary = run(needles=1, quality_steps=2, decode_tokens=4)
    results = summary.results
    assert (results["largest_accepted_tokens"], results["smallest_failed_tokens"]) == (1499, 1500)
    at_the_limit = next(probe for probe in probes if probe.tokens == 1499)
    assert at_the_limit.outcome is ProbeOutcome.HELD
    (error,) = read(
        session.folder,
        f"SELECT error_type FROM failures WHERE request_id = '{at_the_limit.detail['request_id']}'",
    )
    assert error == ("EMPTY_OUTPUT",), "what it is stays on record"
    if silent == 1:
        assert (results["replay_turns"], results["replay_failures"]) == (90, 0)
    else:
        lost = [probe.outcome for probe in probes if probe.target == ledger.QUALITY]
        assert set(lost) == {ProbeOutcome.QUALITY_LOST}, "no answer is no right one"


def test_documents_grow_too_and_what_is_too_large_for_this_machine_is_refused(server, outputs):
    _, _, summary = run(growth="documents", exchanges=[1, 2, 8], replay_exchanges=0)
    assert summary.results["apart_tokens"] == 1
    assert summary.results["tokens_per_exchange"] > 200
    before = folders(outputs)
    for changes, said in (({"headroom_mib": 1_000_000}, "headroom_mib"), ({}, "in_process_model")):
        with pytest.raises(InputError, match=said):
            run(dtypes=["float32"], in_process_model="/tmp" if changes == {} else "a/name", **changes)
    assert folders(outputs) == before


def test_without_token_ids_the_limit_is_near_and_without_a_limit_there_is_no_answer(point_at):
    with FakeServer(persona="other", max_model_len=1500, token_ids=False, base_ms=1, itl_ms=0.1) as found:
        point_at(found)
        _, _, summary = run(replay_exchanges=0)
        assert (
            1400
            < summary.results["largest_accepted_tokens"]
            < summary.results["smallest_failed_tokens"]
            < 1700
        )
    with FakeServer(max_model_len=100_000, base_ms=1, itl_ms=0.1) as found:
        point_at(found)
        _, _, summary = run(replay_exchanges=0, ceiling_tokens=8000)
        assert summary.verdict == "INVALID"
        assert summary.results["limit_reason"] is None


def test_a_failure_that_says_nothing_about_length_is_no_limit(server):
    server.control(faults={"8": "status_500"})
    _, probes, summary = run(replay_exchanges=0)
    assert summary.results["largest_accepted_tokens"] == 1499
    assert all(probe.outcome is not None for probe in probes)


def test_a_server_that_gives_no_answer_in_time_is_a_limit(server, monkeypatch):
    monkeypatch.setenv("REQUEST_TIMEOUT_S", "1")
    session = kv.open("context_limit_probe", {**SMALL, "replay_exchanges": 0})
    server.control(faults={"3": "stall_before"})
    for trial in session.pending():
        session.measure(trial)
    outcomes = [probe.outcome for probe in ledger.read(session.run.database.sql)]
    session.finish()
    assert ProbeOutcome.TIMEOUT in outcomes


def test_a_server_that_dies_ends_the_run_in_one_line_and_is_on_record(server):
    session = kv.open("context_limit_probe", {**SMALL, "replay_exchanges": 0})
    trials = session.pending()
    session.measure(next(trials))
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(KvlabError, match="no longer answers"):
        session.measure(next(trials))
    session.engine.close()


def test_a_killed_run_goes_on_where_it_was(server, outputs):
    code = "from tests.experiments.context_limit_probe.test_endpoint import run; run(replay_exchanges=100)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as process:
        until(lambda: bool(folders(outputs)) and "cut-01" in done(folders(outputs)[0]), 120)
        process.kill()
    (folder,) = folders(outputs)
    before = read(folder, "SELECT probe_id, tokens, outcome FROM context_probes")
    _, _, summary = run(replay_exchanges=100, run_dir=str(folder))
    after = read(folder, "SELECT probe_id, tokens, outcome FROM context_probes")
    # Whoever killed it may have done so in the middle of a probe: then that one had no outcome yet.
    known = [row for row in before if row[2] is not None]
    assert after[: len(known)] == known, "nothing acknowledged is lost"
    held = [row[1] for row in after if row[2] == "held"]
    assert len(held) == len(set(held)), "nothing is done twice"
    assert summary.results["apart_tokens"] == 1
    assert {row[0] for row in read(folder, "SELECT status FROM trials")} == {"done"}


def test_bad_input_is_one_line_and_leaves_nothing(server, outputs):
    result = kvlab("run", "context_limit_probe", "--profile", "smoke", "--set", "cold_tokens=[4000]")
    assert result.returncode == 2
    assert "cold_tokens: 4000" in result.stderr
    assert "1492 at most" in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert not list(outputs.glob("*/*"))
