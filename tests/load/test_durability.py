"""SIGKILL of the generator and of the recorder under load: the server knows what was sent."""

import json
import signal

import psutil
import pytest

from benchmarks.servers.process import FakeServer
from kvlab.store import frames
from tests.load.bench import Bench, gone, kill, recorder_of, start, until

ITEMS = 300
#: Requests that are answered before the kill. The others wait at the server, so that no machine is fast enough to end
#: the load before it is struck.
BEFORE = 100
ALL = 10**9


@pytest.fixture
def server():
    with FakeServer(base_ms=5, itl_ms=1, answer_first=BEFORE) as found:
        yield found


def _reported(process):
    """What the killed notebook had been told."""
    lines = [json.loads(line) for line in process.stdout.read().splitlines() if line.startswith(b"{")]
    return max((line["done"] for line in lines), default=0)


@pytest.mark.parametrize("victim", ["generator", "recorder"])
def test_nothing_acknowledged_is_lost_and_a_resume_sends_exactly_the_rest(tmp_path, server, victim):
    bench = Bench(tmp_path)
    process = start(bench, bench.job(server.base_url, ITEMS, timeout_s=120.0))
    until(lambda: len(bench.final()) > 40)
    recorder = recorder_of(process)
    family = [recorder, *recorder.children(recursive=True)]
    kill({"generator": family[1], "recorder": recorder}[victim].pid, signal.SIGKILL)
    assert gone([*family, psutil.Process(process.pid)])
    said = _reported(process)
    process.wait()

    before = bench.final()
    assert said <= len(before) <= BEFORE
    assert len(set(before)) == len(before)
    received = {record["request_id"] for record in server.truth()}
    assert bench.answered_ids() <= received
    assert frames.integrity(bench.database.sql) == []

    server.control(answer_first=ALL)
    server.clear_truth()
    session = bench.resume()
    ended, _ = bench.run(bench.job(server.base_url, ITEMS, session=session))
    assert (ended.why, ended.done) == ("done", ITEMS)
    sent = sorted(int(record["request_id"].split("/")[2].split(".")[0]) for record in server.truth())
    assert sent == sorted(set(range(ITEMS)) - set(before)), "each that had no final row, once"
    assert bench.final() == list(range(ITEMS))
    assert frames.integrity(bench.database.sql) == []


def test_a_stop_drains_what_is_in_flight(tmp_path, server):
    bench, many = Bench(tmp_path), 100 * ITEMS
    process = start(bench, bench.job(server.base_url, many, timeout_s=120.0))
    until(lambda: len(bench.final()) > 20)
    kill(process.pid, signal.SIGINT)
    until(lambda: _answered_so_far(server, process))
    final = bench.final()
    assert 20 < len(final) < many
    truth = server.truth()
    assert {record["outcome"] for record in truth} == {"done"}, "no answer was cut off"
    assert bench.answered_ids() == {record["request_id"] for record in truth}


def _answered_so_far(server, process):
    """Answer what has arrived. Whether the process has ended: it sends eight more while the stop is on its way."""
    server.control(answer_first=max(record["n"] for record in server.truth()))
    return process.poll() is not None


def test_a_finished_job_sends_nothing_again(tmp_path, server):
    bench = Bench(tmp_path)
    job = bench.job(server.base_url, 20)
    bench.run(job)
    server.clear_truth()
    ended, _ = bench.run(bench.job(server.base_url, 20, session=bench.resume()))
    assert (ended.why, ended.done, server.truth()) == ("done", 20, [])


def test_conversations_go_on_with_the_answers_of_the_session_before(tmp_path, server):
    bench = Bench(tmp_path)
    server.control(answer_first=40)
    process = start(bench, bench.job(server.base_url, 80, kind="conversation", timeout_s=120.0))
    until(lambda: len(bench.final()) > 20)
    kill(recorder_of(process).pid, signal.SIGKILL)
    process.wait(timeout=30)
    server.control(answer_first=ALL)
    bench.run(bench.job(server.base_url, 80, kind="conversation", session=bench.resume()))
    assert bench.final() == list(range(80))
    answers = dict(bench.read("SELECT r.item, p.text FROM requests r JOIN responses p USING (request_id)"))
    prompts = bench.read(
        "SELECT item, body_json FROM requests JOIN prompts USING (prompt_sha256) WHERE final = 1"
    )
    for item, body in prompts:
        said = [m["content"] for m in json.loads(body)["messages"] if m["role"] == "assistant"]
        earlier = [answers[number] for number in range(item % 4, item, 4)]
        turn = item // 4
        kept = (
            0 if not turn else turn if turn < 3 else turn % 3 + 1
        )  # trimmed to one exchange every third turn
        assert said == earlier[len(earlier) - kept :], item
