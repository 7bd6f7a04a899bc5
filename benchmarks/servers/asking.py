"""Asking a fake server over HTTP, and reading what it streams."""

from __future__ import annotations

import json

from prometheus_client.parser import text_string_to_metric_families

LONG = "one two three four five six seven eight nine ten " * 10  # 100 words and a trailing blank


def chat(client, text=LONG, *, headers=None, **more):
    body = {"model": "fake", "messages": [{"role": "user", "content": text}], "max_tokens": 4, **more}
    return client.post("/v1/chat/completions", json=body, headers=headers)


def stream(client, text=LONG, **more):
    return chat(client, text, stream=True, stream_options={"include_usage": True}, **more)


def events(response):
    assert response.headers["content-type"].startswith("text/event-stream")
    return [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]


def chunks(response):
    return [json.loads(event) for event in events(response) if event != "[DONE]"]


def cached(response):
    return chunks(response)[-1]["usage"]["prompt_tokens_details"]["cached_tokens"]


def samples(client):
    families = text_string_to_metric_families(client.get("/metrics").text)
    found = {}
    for sample in (s for family in families for s in family.samples):
        key = sample.labels.get("source") or sample.labels.get("finished_reason")
        found[f"{sample.name}:{key}" if key else sample.name] = sample.value
    return found
