"""Servers that fail: in the replay, at one size, for good, and while a context is tried."""

import json
import os
import signal
import threading

import pytest

from benchmarks.servers.process import FakeServer
from kvlab import api as kv
from kvlab.errors import KvlabError
from kvlab.experiments.context_limit_probe import ledger
from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome
from tests.command.tool import read, until
from tests.experiments.context_limit_probe.test_endpoint import SMALL, run

SHORT = {"exchanges": [2, 5], "cold_tokens": [], "replay_exchanges": 20, "max_attempts": 1}


@pytest.fixture
def server(point_at):
    with FakeServer(max_model_len=1500, base_ms=1, itl_ms=0.2) as found:
        point_at(found)
        yield found


def replay_check(summary):
    return next(check for check in summary.checks if check.name == "replay_never_fails")


def measured(server, *, before_each_replay, **changes):
    """Measure a short run, telling the server something before each replay."""
    session = kv.open("context_limit_probe", {**SMALL, **SHORT, **changes})
    replays = 0
    for trial in session.pending():
        if trial.planned["kind"] == "replay":
            before_each_replay(server, replays)
            replays += 1
        session.measure(trial)
    return session.finish()


def struck(server, faults, **changes):
    """Run with faults that count from the first request of the run, not from those that look at the server."""
    session = kv.open("context_limit_probe", {**SMALL, **SHORT, "replay_exchanges": 0, **changes})
    server.control(faults=faults)
    for trial in session.pending():
        session.measure(trial)
    probes = ledger.read(session.run.database.sql)
    return probes, session.finish()


def fail_all(server, number):
    server.control(faults={"5": "status_500"})


def fail_last(server, number):
    server.control(faults={"5": "status_500"} if number == 2 else {})


def refuse_last(server, number):
    if number == 2:
        server.control(max_model_len=600)


@pytest.mark.parametrize("tell", [fail_all, fail_last, refuse_last])
def test_a_replay_that_fails_fails_the_run(server, tell):
    summary = measured(server, before_each_replay=tell)
    assert summary.verdict == "FAIL", summary.checks
    assert replay_check(summary).passed is False
    assert summary.results["replay_failures"] == (3 if tell is fail_all else 1)
    assert summary.results["constants"]["MAX_CONTEXT_TOKENS"] == 1199, "what was found is still said"


def test_a_replay_that_another_attempt_mends_is_no_failure(server):
    summary = measured(server, before_each_replay=fail_last, max_attempts=2)
    assert summary.verdict == "PASS", summary.checks
    assert (summary.results["replay_turns"], summary.results["replay_failures"]) == (60, 0)


def test_an_error_that_repeats_at_one_size_is_a_limit_with_its_own_name(server):
    faults = {"2": "status_502", "3": "status_502"}
    probes, summary = struck(server, faults, exchanges=[2, 5, 8], max_attempts=2)
    twice = [probe for probe in probes if probe.outcome is ProbeOutcome.SERVER_ERROR]
    assert len(twice) == 2
    assert len({probe.tokens for probe in twice}) == 1
    assert summary.results["smallest_failed_tokens"] == twice[0].tokens
    assert summary.results["limit_reason"] == "server_error"
    assert summary.verdict == "FAIL", "it is below what the server promises"


def test_an_engine_that_died_behind_its_server_is_not_killed_again(server):
    """/v1/models answers as before: what the error and /health say is what counts."""
    session = kv.open("context_limit_probe", {**SMALL, **SHORT, "replay_exchanges": 0})
    server.control(faults={"2": "engine_dead"})
    trials = session.pending()
    session.measure(next(trials))
    session.measure(next(trials))
    killing = ledger.read(session.run.database.sql)[-1]
    assert killing.outcome is ProbeOutcome.SERVER_DIED
    with pytest.raises(KvlabError, match="no longer answers"):
        session.measure(next(trials))
    session.close()
    server.control(faults={})
    _, probes, _ = run(**SHORT | {"replay_exchanges": 0}, run_dir=str(session.folder))
    assert [probe.tokens for probe in probes].count(killing.tokens) == 1
    assert len(probes) > 2, "it went on below"


def test_an_empty_answer_that_counts_nothing_proves_nothing(server):
    server.control(usage="none", silent_tokens=1000)
    _, probes, summary = run(exchanges=[2, 5], replay_exchanges=0, cold_tokens=[], decode_tokens=4)
    assert not any(probe.held for probe in probes if probe.target == ledger.ENDPOINT)
    assert summary.verdict == "INVALID"


def test_a_server_that_is_killed_by_a_probe_is_not_asked_for_that_size_again(server, outputs):
    """It dies while a context is tried: that is on record, and a resumed run goes round it."""
    session = kv.open("context_limit_probe", {**SMALL, **SHORT, "replay_exchanges": 0})
    trials = session.pending()
    session.measure(next(trials))
    server.control(base_ms=20_000)

    def kill():
        until(lambda: (None,) in read(session.folder, "SELECT outcome FROM context_probes"), 30)
        os.kill(server.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    session.measure(next(trials))
    killer.join()
    killing = ledger.read(session.run.database.sql)[-1]
    assert killing.outcome is ProbeOutcome.SERVER_DIED
    with pytest.raises(KvlabError, match=r"no longer answers.*resume") as caught:
        session.measure(next(trials))
    assert "\n" not in str(caught.value)
    folder = session.folder
    session.close()
    with FakeServer(max_model_len=1500, base_ms=1, itl_ms=0.2).at(server.port):
        _, probes, summary = run(**SHORT | {"replay_exchanges": 0}, run_dir=str(folder))
    assert [probe.tokens for probe in probes].count(killing.tokens) == 1
    assert max(probe.tokens for probe in probes) == killing.tokens
    assert summary.results["limit_reason"] == "server_died"
    assert json.loads((folder / "context_limit_results.json").read_text())["limit_reason"] == "server_died"
