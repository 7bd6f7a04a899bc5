"""The fake server's streams, stamps, queue and process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from benchmarks.servers.asking import chunks, events, samples, stream
from benchmarks.servers.process import FakeServer


def test_chat_stream_has_the_shape_of_vllm(client):
    response = stream(client)
    role, *tokens, usage = chunks(response)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [set(t["choices"][0]["delta"]) for t in tokens] == [{"content"}] * 4
    assert [t["choices"][0]["finish_reason"] for t in tokens] == [None, None, None, "length"]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 4
    assert events(response)[-1] == "[DONE]"


def test_streamed_text_is_the_text_of_the_body(client):
    text = "".join(
        c["choices"][0]["text"]
        for c in chunks(client.post("/v1/completions", json={"prompt": "a", "stream": True}))
    )
    body = client.post("/v1/completions", json={"prompt": "a"}).json()
    assert body["choices"][0]["text"] == text
    assert body["usage"]["completion_tokens"] == 16


def test_reasoning_and_empty_chunks(server, client):
    server.control(reasoning_tokens=2, reasoning_field="reasoning_content", empty_chunks=1)
    deltas = [c["choices"][0]["delta"] for c in chunks(stream(client))[:-1]]
    kinds = [next((k for k, v in delta.items() if v), "empty") for delta in deltas]
    think, say, gap = "reasoning_content", "content", "empty"
    assert kinds == ["role", gap, think, gap, think, gap, say, gap, say]


@pytest.mark.parametrize("options", [{"coalesce": 4}, {"split": True}, {"split": True, "coalesce": 3}])
def test_fragmented_streams_say_the_same(server, client, options):
    server.control(output_tokens=60, itl_ms=0)
    plain = [c["choices"] for c in chunks(stream(client, max_tokens=60))]
    server.control(split_gap_ms=0.2, **options)
    assert [c["choices"] for c in chunks(stream(client, max_tokens=60))] == plain
    assert server.truth()[-1]["tokens"] == 60


def test_what_is_not_to_be_answered_yet_waits_until_it_is():
    with FakeServer(answer_first=1) as server, httpx.Client(base_url=server.root_url, timeout=30) as client:
        assert stream(client).status_code == 200
        with ThreadPoolExecutor(2) as pool:
            later = [pool.submit(stream, client) for _ in range(2)]
            while samples(client)["vllm:num_requests_waiting"] < 2:
                assert not any(answer.done() for answer in later)
            server.control(answer_first=3)
            assert [answer.result(timeout=30).status_code for answer in later] == [200, 200]
        assert [record["started_ns"] > record["received_ns"] for record in server.truth()[1:]] == [True, True]


def test_stamps_are_on_the_clients_clock_and_never_early(server, client):
    before = time.perf_counter_ns()
    headers = {"X-Fake-Schedule": "20,10,10", "X-Request-Id": "mine"}
    response = client.post("/v1/completions", json={"prompt": "a", "stream": True}, headers=headers)
    after = time.perf_counter_ns()
    (record,) = server.truth()
    assert chunks(response)[0]["id"] == "cmpl-mine"
    assert record["request_id"] == "mine"
    assert record["scheduled_first_ns"] == record["received_ns"] + 20_000_000
    order = ["received_ns", "scheduled_first_ns", "first_token_emit_ns", "last_token_emit_ns", "done_ns"]
    stamps = [before, *(record[name] for name in order), after]
    assert stamps == sorted(stamps)
    tokens = [(due, real) for kind, due, real in record["chunks"] if kind == "token"]
    assert [due - record["received_ns"] for due, _ in tokens] == [20_000_000, 30_000_000, 40_000_000]
    assert all(real >= due for due, real in tokens)


def test_requests_beyond_max_running_wait(server, client):
    server.control(max_running=1)
    headers = {"X-Fake-Schedule": "30,30"}
    with client.stream(
        "POST", "/v1/completions", json={"prompt": "a", "stream": True}, headers=headers
    ) as response:
        assert samples(client)["vllm:num_requests_running"] == 1
        client.post("/v1/completions", json={"prompt": "b", "max_tokens": 1})
        response.read()
    first, second = server.truth()
    assert second["started_ns"] >= first["done_ns"] > second["received_ns"]


def test_plain_http_client_with_keep_alive_and_close(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    body = json.dumps({"prompt": "a", "stream": True, "max_tokens": 2})
    for headers in ({}, {}, {"Connection": "close"}):
        connection.request("POST", "/v1/completions", body, headers)
        response = connection.getresponse()
        assert response.read().endswith(b"data: [DONE]\n\n")
        assert response.will_close == bool(headers)
    connection.request(
        "POST",
        "/v1/completions",
        iter([body.encode()]),
        {"Transfer-Encoding": "chunked"},
        encode_chunked=True,
    )
    assert connection.getresponse().status == 200
    connection.close()


def test_control_refuses_what_it_does_not_know(server):
    with pytest.raises(ValueError, match="bogus"):
        server.control(bogus=1)


def test_the_command_ends_on_sigterm_and_with_its_lifeline():
    command = [
        sys.executable,
        "-m",
        "benchmarks.servers.openai_server",
        "--itl-ms",
        "1",
        "--no-metrics",
        "--lifeline",
    ]
    root = Path(__file__).parents[2]
    for end in (lambda p: os.kill(p.pid, signal.SIGTERM), lambda p: p.stdin.close()):
        process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started = json.loads(process.stdout.readline())
        assert started["pid"] == process.pid
        assert httpx.get(f"http://127.0.0.1:{started['port']}/metrics", trust_env=False).status_code == 404
        end(process)
        assert process.wait(timeout=5) == 0
        process.stdout.close()
