"""What the fake server says of itself: usage, metrics, fields, tokens, personas."""

from __future__ import annotations

import pytest

from benchmarks.servers.asking import LONG, cached, chat, chunks, samples, stream


def test_metrics_tell_the_truth_whatever_usage_says(server, client):
    before = samples(client)
    server.control(lying_usage="zero")
    stream(client)
    assert cached(stream(client)) == 0
    after = samples(client)
    records = server.truth()
    true = sum(r["cached_tokens"] for r in records)
    asked = sum(r["prompt_tokens"] for r in records)
    source = "vllm:prompt_tokens_by_source_total:"
    delta = {name: after[name] - before[name] for name in after}
    assert delta[f"{source}local_cache_hit"] == delta["vllm:prefix_cache_hits_total"] == true > 0
    assert delta[f"{source}local_compute"] == asked - true
    assert delta["vllm:prefix_cache_queries_total"] == delta["vllm:prompt_tokens_total"] == asked
    assert delta["vllm:generation_tokens_total"] == 8
    assert delta["vllm:request_success_total:length"] == 2
    assert delta["vllm:time_to_first_token_seconds_count"] == 2
    server.control(lying_usage="+16")
    assert cached(stream(client)) == server.truth()[-1]["cached_tokens"] + 16


def test_silence(server, client):
    server.control(usage="no_details")
    assert "prompt_tokens_details" not in chunks(stream(client))[-1]["usage"]
    server.control(usage="none")
    assert chunks(stream(client))[-1]["choices"]
    assert "usage" not in chat(client).json()
    server.control(metrics=False, tokenize=False, version=False, token_ids=False, reset="absent")
    assert client.get("/metrics").status_code == client.get("/version").status_code == 404
    assert client.post("/tokenize", json={"prompt": "a"}).status_code == 404
    assert client.post("/reset_prefix_cache").status_code == 404
    assert client.post("/v1/completions", json={"prompt": [1, 2]}).status_code == 400


def test_custom_field(server, client):
    server.control(custom_metric_field="kv.reused", usage="none")
    assert chunks(stream(client))[-1]["kv"] == {"reused": 0}
    assert chat(client).json()["kv"]["reused"] == server.truth()[-1]["cached_tokens"] > 0


@pytest.mark.parametrize(
    ("persona", "owner", "path"),
    [("vllm", "vllm", "/version"), ("llamacpp", "llamacpp", "/props"), ("ollama", "library", "/api/version")],
)
def test_personas(server, client, persona, owner, path):
    server.control(persona=persona)
    model = client.get("/v1/models").json()["data"][0]
    assert model["owned_by"] == owner
    assert ("max_model_len" in model) == (persona == "vllm")
    assert client.get("/health").status_code == 200
    others = {"/version", "/props", "/api/version"} - {path}
    assert client.get(path).status_code == 200
    assert {client.get(other).status_code for other in others} == {404}


def test_tokenize_counts_the_template_as_the_usage_does(server, client):
    server.control(template_prefix_tokens=40)
    messages = [{"role": "user", "content": LONG}]
    answer = client.post("/tokenize", json={"model": "fake", "messages": messages}).json()
    assert answer["count"] == len(answer["tokens"]) == chat(client).json()["usage"]["prompt_tokens"]
    plain = client.post("/tokenize", json={"prompt": LONG}).json()
    assert client.post("/detokenize", json={"tokens": plain["tokens"]}).json() == {"prompt": LONG}
    assert (
        client.post("/v1/completions", json={"prompt": plain["tokens"]}).json()["usage"]["prompt_tokens"]
        == 101
    )
