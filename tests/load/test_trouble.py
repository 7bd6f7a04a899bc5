"""Server trouble under load: every request ends with one final row."""

import itertools
import json
import socket
import sqlite3
import statistics
import threading
import time
from dataclasses import replace

import pytest

from benchmarks.fast_server import FastServer
from benchmarks.servers.catalogue import FAULTS, FaultServer
from benchmarks.servers.process import FakeServer
from benchmarks.servers.tls import TlsFront
from kvlab.load.job import Retries
from kvlab.store import frames
from kvlab.timing.arrivals import Arrivals
from kvlab.timing.request import Target
from tests.load.bench import Bench, start, until

ITEMS = 80


def check(bench, ended, items=ITEMS):
    assert (ended.why, ended.done) == ("done", items)
    assert bench.final() == list(range(items))
    assert frames.integrity(bench.database.sql) == []
    attempts = bench.read(
        "SELECT item, group_concat(attempt), sum(final) FROM requests GROUP BY item ORDER BY attempt"
    )
    for _, numbers, finals in attempts:
        made = sorted(int(number) for number in numbers.split(","))
        assert (made, finals) == (list(range(1, len(made) + 1)), 1)


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("status_429", "RATE_LIMITED"),
        ("status_500", "ENGINE_ERROR"),
        ("stall_mid", "TIMEOUT"),
        ("disconnect_mid", "ENGINE_ERROR"),
        ("disconnect_before", "ENGINE_ERROR"),
        ("malformed", "ENGINE_ERROR"),
        ("error_event", "ENGINE_ERROR"),
    ],
)
def test_a_storm(tmp_path, kind, label):
    """A third of all requests is struck; those that are sent again in vain six times have failed."""
    bench = Bench(tmp_path)
    options = {"fault_rate": 0.34, "fault_kind": kind, "fault_seed": 7, "retry_after_s": 0}
    # Only what stalls may time out: on a busy machine, a short limit would strike sound answers, too.
    timeout_s = 0.5 if kind == "stall_mid" else 30.0
    with FakeServer(base_ms=5, itl_ms=1, **options) as server:
        ended, _ = bench.run(bench.job(server.base_url, ITEMS, timeout_s=timeout_s))
        truth = server.truth()
    check(bench, ended)
    # A kept connection that ends before any byte looks like one that the server had closed: sent anew, and counted.
    anew = ended.generator["reconnects"]
    assert anew == 0 or kind == "disconnect_before"
    assert bench.read("SELECT coalesce(sum(value), 0) FROM observations WHERE name = 'reconnects'") == [
        (anew,)
    ]
    assert ended.retried + anew > 5
    assert {row[0] for row in bench.read("SELECT DISTINCT error_type FROM failures")} == {label}
    struck = sum(record["outcome"] == "fault" for record in truth)
    ((failures,),) = bench.read("SELECT count(*) FROM failures")
    assert failures == struck - anew or (kind == "stall_mid" and failures > struck - anew)
    assert len(truth) == ITEMS + ended.retried + anew


def test_what_no_attempt_can_mend_is_sent_once(tmp_path):
    bench = Bench(tmp_path)
    with FakeServer(base_ms=5, max_model_len=10) as server:
        ended, _ = bench.run(bench.job(server.base_url, 20))
        assert len(server.truth()) == 20
    check(bench, ended, 20)
    assert ended.failed == 20
    assert bench.read("SELECT DISTINCT error_type, final FROM failures JOIN requests USING (request_id)") == [
        ("REFUSED_INPUT", 1)
    ]


def test_a_restart_in_the_middle_costs_time_and_no_request(tmp_path):
    """While nothing accepts a connection nothing is sent, so nothing is counted as an attempt."""
    bench = Bench(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The first one answers 60 requests and no more: it is gone before the load can be over.
    servers = [FakeServer(base_ms=5, itl_ms=1, **more).at(port) for more in ({"answer_first": 60}, {})]
    up, done = threading.Event(), threading.Event()

    def restart():
        with servers[0]:
            up.set()
            until(lambda: len(_final(bench.path)) >= 30)
        time.sleep(1.2)
        with servers[1]:
            done.wait(60)

    thread = threading.Thread(target=restart)
    thread.start()
    assert up.wait(60)
    try:
        ended, _ = bench.run(bench.job(f"http://127.0.0.1:{port}/v1", ITEMS * 2))
    finally:
        done.set()
        thread.join()
    check(bench, ended, ITEMS * 2)
    assert ended.failed == 0
    assert all(end_ns > start_ns for start_ns, end_ns in ended.generator["outages_ns"])
    assert ended.generator["outages_ns"], "it was seen that nothing accepted a connection"
    assert bench.read("SELECT max(attempt) <= 3 FROM requests") == [(1,)]


def _final(path):
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as sql:
        return sql.execute("SELECT item FROM requests WHERE final = 1").fetchall()


def test_a_server_that_stays_away_is_given_up_and_the_rest_can_be_resumed(tmp_path):
    bench = Bench(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    job = bench.job(f"http://127.0.0.1:{port}/v1", 10, retries=Retries(outage_limit_s=0.6))
    ended, _ = bench.run(job)
    assert "accepted no connection" in ended.why
    assert bench.final() == []
    with FakeServer(base_ms=1) as server:
        ended, _ = bench.run(bench.job(server.base_url, 10, session=bench.resume()))
    check(bench, ended, 10)


def test_an_open_loop_sends_at_its_own_pace(tmp_path):
    """A server that answers after 300 ms is asked 100 times a second all the same."""
    bench = Bench(tmp_path)
    with FakeServer(base_ms=300, itl_ms=0) as server:
        ended, _ = bench.run(bench.job(server.base_url, 40, arrivals=Arrivals("constant", rate_per_s=100.0)))
    check(bench, ended, 40)
    (due,) = zip(*bench.read("SELECT due_ns FROM telemetry ORDER BY due_ns"), strict=True)
    assert {round((b - a) / 1e6) for a, b in itertools.pairwise(due)} == {10}
    assert ended.generator["connections_opened"] > 20, "none waited for another's answer"


@pytest.mark.parametrize(
    "arrivals",
    [
        Arrivals("poisson", rate_per_s=500.0, seed=11),
        Arrivals("ramp", rate_per_s=800.0, ramp_from_per_s=100.0, ramp_s=0.4),
    ],
)
def test_random_and_rising_arrivals_are_sent_as_planned(tmp_path, arrivals):
    """What is due is planned to the nanosecond; nothing is sent before it is due, or out of turn."""
    items, bench = 200, Bench(tmp_path)
    with FakeServer(base_ms=2, itl_ms=0) as server:
        ended, _ = bench.run(bench.job(server.base_url, items, arrivals=arrivals))
        received = {record["request_id"]: record["received_ns"] for record in server.truth()}
    check(bench, ended, items)
    rows = bench.read(
        "SELECT request_id, item, due_ns, sent_ns FROM telemetry JOIN requests USING (request_id)"
    )
    rows.sort(key=lambda row: row[2])
    assert [item for _, item, _, _ in rows] == list(range(items))
    due = [due_ns for _, _, due_ns, _ in rows]
    planned = [int(offset * 1e9) for offset in itertools.islice(arrivals.offsets_s(), items)]
    assert [moment - due[0] for moment in due] == planned
    sent = [sent_ns for _, _, _, sent_ns in rows]
    assert all(moment >= late for moment, late in zip(sent, due, strict=True))
    assert all(sent_ns < received[name] for name, _, _, sent_ns in rows)
    gaps = [b - a for a, b in itertools.pairwise(due)]
    spread = statistics.pstdev(gaps) / statistics.fmean(gaps)
    if arrivals.mode == "poisson":  # exponential gaps: their spread is their mean
        assert spread == pytest.approx(1, abs=0.15)
        assert statistics.fmean(gaps) == pytest.approx(1e9 / 500, rel=0.15)
    else:
        first, second = (sum(low <= moment < low + 0.2e9 for moment in planned) for low in (0, 0.2e9))
        assert (first, second) == (55, 125), "the integral of the rate over each half of the ramp"


def test_an_open_loop_whose_connections_are_all_taken_waits(tmp_path):
    """It has nothing to do until an answer comes, so it does not look again and again."""
    bench = Bench(tmp_path)
    with FakeServer(base_ms=200, itl_ms=0) as server:
        arrivals = Arrivals("constant", rate_per_s=1000.0)
        ended, _ = bench.run(bench.job(server.base_url, 6, arrivals=arrivals, max_connections=1))
    check(bench, ended, 6)
    assert ended.generator["passes"] < 200


def test_a_certificate_that_nobody_vouches_for_is_the_end_and_the_reason(tmp_path):
    bench = Bench(tmp_path)
    with FakeServer() as server, TlsFront(server.port, tmp_path) as front:
        ended, _ = bench.run(bench.job(f"https://127.0.0.1:{front.port}/v1", 5))
    assert ended.why.startswith("no connection: ")
    assert "certificate" in ended.why
    assert bench.final() == []


def test_too_few_file_descriptors_are_named_and_are_no_outage_of_the_server(tmp_path):
    bench = Bench(tmp_path)
    with FakeServer(base_ms=20, itl_ms=0) as server:
        few = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))"
        job = bench.job(server.base_url, 200, arrivals=Arrivals("closed", 100))
        said, _ = start(bench, job, few).communicate(timeout=60)
    *_, last = (json.loads(line) for line in said.splitlines() if line.startswith(b"{"))
    assert (last["state"], last["died"], bench.final()) == ("ended", None, list(range(200)))
    assert any("Too many open files" in why for why in last["generator"]["unconnected"])
    assert last["generator"]["outages_ns"] == []


def test_a_recorder_that_is_behind_holds_the_sender_back(tmp_path):
    """While the database is locked nothing is committed: what waits stays bounded, and the lag says so.

    At 10 ms an answer and four at a time it takes at least 3.7 s, however fast the machine: the lock comes in time.
    """
    bench = Bench(tmp_path)
    with FastServer(base_ms=10) as server:
        job = bench.job(server.base_url, 1500, arrivals=Arrivals("closed", 4), backlog_bytes=50_000)
        process = start(bench, job)
        until(lambda: len(_final(bench.path)) > 0)
        with bench.database.transaction():
            behind, before = _settled(lambda: len(server.truth())), len(_final(bench.path))
        said, _ = process.communicate(timeout=60)
    assert before < behind < 1500, "it stopped before the end"
    assert bench.final() == list(range(1500))
    *_, last = (json.loads(line) for line in said.splitlines() if line.startswith(b"{"))
    assert 50_000 <= last["generator"]["backlog_peak_bytes"] < 1_000_000
    (late,) = bench.read("SELECT max(sent_ns - due_ns) FROM telemetry")
    assert late[0] > 0.4e9, "the database was locked for longer than that"


def _settled(count):
    """Return a running total once it has not grown for two seconds: longer than a busy machine lets a process wait."""
    total, since = 0, time.monotonic()
    while time.monotonic() - since < 2.0:
        if new := count():
            total, since = total + new, time.monotonic()
        time.sleep(0.05)
    return total


def test_connections_can_be_limited(tmp_path):
    bench = Bench(tmp_path)
    with FakeServer(base_ms=5) as server:
        arrivals = Arrivals("constant", rate_per_s=1000.0)
        ended, _ = bench.run(bench.job(server.base_url, 40, arrivals=arrivals, max_connections=3))
    check(bench, ended, 40)
    assert ended.generator["connections_opened"] == 3


def test_a_key_that_a_server_echoes_is_in_no_row(tmp_path):
    bench = Bench(tmp_path)
    job = bench.job("http://x", 3)
    with FakeServer(require_key="right") as server:
        target = Target(server.base_url, {"Authorization": "Bearer wrong-secret-key"})
        bench.run(replace(job, target=target, secrets=("wrong-secret-key",)))
    messages = bench.read("SELECT message FROM failures")
    assert len(messages) == 3
    assert all("[redacted]" in message and "wrong-secret" not in message for (message,) in messages)


def test_answers_without_end_end_at_their_limit_in_bytes_and_are_stored_as_what_they_are(tmp_path):
    bench = Bench(tmp_path)
    with FaultServer(FAULTS) as server:
        job = bench.job(
            f"{server.url}/endless_tokens/v1", 12, retries=Retries(max_attempts=1), timeout_s=20.0
        )
        job = replace(job, target=replace(job.target, max_bytes=2**20))
        ended, told = bench.run(job)
    check(bench, ended, 12)
    assert ended.failed == 12
    assert sum(report["state"] == "running" for report in told) >= 1
    messages = bench.read("SELECT DISTINCT error_type, message FROM failures")
    assert [(kind, "more than 1 MiB" in message) for kind, message in messages] == [("ENGINE_ERROR", True)]


@pytest.mark.parametrize(
    "name", ["trailers", "chunk_extension_last", "early_hints_103", "closed_unannounced", "bytewise"]
)
def test_unusual_answers_that_are_right_are_answers(tmp_path, name):
    bench = Bench(tmp_path)
    with FaultServer(FAULTS) as server:
        ended, _ = bench.run(bench.job(f"{server.url}/{name}/v1", 12, timeout_s=5.0))
    check(bench, ended, 12)
    assert (ended.failed, ended.retried) == (0, 0)
