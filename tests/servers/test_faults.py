"""The faults of the fake server, and its refusals."""

from __future__ import annotations

import json
import time

import httpx
import pytest

from benchmarks.servers.asking import chat, events, stream


def test_refusals_are_worded_as_by_vllm(server, client):
    def refused(status, **body):
        response = client.post("/v1/completions", json={"prompt": "a", **body})
        assert response.status_code == response.json()["error"]["code"] == status
        return response.json()["error"]["message"]

    assert refused(404, model="nope") == "The model `nope` does not exist. Valid aliases: fake."
    assert "your prompt contains 9000 input tokens" in refused(400, prompt=[1] * 9000)
    assert "max_tokens=9999 cannot be greater than max_model_len=8192" in refused(400, max_tokens=9999)
    assert [r["outcome"] for r in server.truth()] == ["rejected"] * 3


def test_a_wrong_key_is_quoted(server, client):
    server.control(require_key="right")
    response = chat(client, headers={"Authorization": "Bearer sk-wrong"})
    assert response.status_code == 401
    assert "sk-wrong" in response.json()["error"]["message"]
    assert chat(client, headers={"Authorization": "Bearer right"}).status_code == 200


def test_status_faults_strike_the_planned_request_only(server, client):
    server.control(faults={"2": "status_429", "3": "status_503"}, retry_after_s=7)
    answers = [chat(client) for _ in range(4)]
    assert [a.status_code for a in answers] == [200, 429, 503, 200]
    assert answers[1].headers["retry-after"] == "7"
    assert [r["fault"] for r in server.truth()] == [None, "status_429", "status_503", None]


def test_random_faults_repeat_with_their_seed(server, client):
    def draw(seed):
        server.control(fault_rate=0.5, fault_seed=seed)
        return [chat(client).status_code for _ in range(12)]

    assert draw(1) == draw(1) != draw(2)
    server.control(fault_rate=0.0)
    assert set(draw(3)) == {200, 500}


def test_broken_streams(server, client):
    server.control(faults={"1": "malformed", "2": "no_done", "3": "error_event"})
    malformed = events(stream(client))
    bad = [event for event in malformed if not _parses(event)]
    assert len(bad) == 1
    assert malformed[-1] == "[DONE]"
    assert events(stream(client))[-1] != "[DONE]"
    struck = events(stream(client))
    assert "error" in json.loads(struck[-2])
    assert [r["tokens"] for r in server.truth()] == [4, 4, 2]


def _parses(event):
    try:
        return event == "[DONE]" or bool(json.loads(event))
    except ValueError:
        return False


@pytest.mark.parametrize("fault", ["disconnect_before", "disconnect_mid"])
def test_disconnects(server, client, fault):
    server.control(faults={"1": fault})
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        stream(client)
    record = server.truth()[0]
    assert (record["outcome"], record["tokens"]) == ("fault", 2 if fault == "disconnect_mid" else 0)


@pytest.mark.parametrize("fault", ["stall_before", "stall_mid"])
def test_stalls(server, client, fault):
    server.control(faults={"1": fault})
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/completions", json={"prompt": "a", "stream": True}, timeout=0.15)
    assert client.get("/health").status_code == 200
    assert server.truth()[0]["tokens"] == (2 if fault == "stall_mid" else 0)


def test_a_client_that_leaves_is_recorded(server, client):
    headers = {"X-Fake-Schedule": "1,2000"}
    with client.stream(
        "POST", "/v1/completions", json={"prompt": "a", "stream": True}, headers=headers
    ) as response:
        next(response.iter_bytes())
    deadline = time.monotonic() + 5
    while server.truth()[0]["outcome"] == "open" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.truth()[0]["outcome"] == "client_gone"
    assert server.stats()["metrics"]["running"] == 0
