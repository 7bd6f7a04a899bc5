"""The fake server is the known truth of other tests, so it is itself checked against something simpler."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import schedule
from tests.fakes.options import OptionError, Options, changed
from tests.fakes.prefix_cache import PrefixCache
from tests.fakes.process import FakeServer
from tests.fakes.tokenizer import Tokenizer

LONG = "one two three four five six seven eight nine ten " * 10  # 100 words and a trailing blank


# --- the cache against brute force -------------------------------------------------------------


class Oracle:
    """Keeps whole prefixes as tuples, and scans them all: slow, and obviously right."""

    def __init__(self, block, capacity):
        self.block, self.capacity = block, capacity
        self.used = {}  # (salt, prefix) -> (time of use, -length): the smallest goes first
        self.now = 0

    def prefixes(self, tokens, salt):
        return [(salt, tuple(tokens[:n])) for n in range(self.block, len(tokens) + 1, self.block)]

    def touch(self, prefixes):
        self.now += 1
        for key in prefixes:
            self.used[key] = (self.now, -len(key[1]))

    def match(self, tokens, salt):
        found = []
        for key in self.prefixes(tokens[:-1], salt):
            if key not in self.used:
                break
            found.append(key)
        self.touch(found)
        return len(found) * self.block

    def store(self, tokens, salt):
        self.touch(self.prefixes(tokens, salt))
        while self.capacity is not None and len(self.used) > self.capacity:
            del self.used[min(self.used, key=self.used.get)]


# Few distinct tokens and salts, so that prefixes are shared often.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14)
requests = st.lists(st.tuples(prompts, st.sampled_from([None, "a", "b"])), max_size=25)


@given(requests, st.integers(1, 4), st.none() | st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_cache_agrees_with_brute_force(sequence, block, capacity):
    cache, oracle = PrefixCache(block, capacity), Oracle(block, capacity)
    for tokens, salt in sequence:
        chain = cache.chain(tokens, salt)
        assert cache.match(chain, len(tokens)) == oracle.match(tokens, salt)
        cache.store(chain)
        oracle.store(tokens, salt)
        assert len(cache) == len(oracle.used)


@given(prompts, prompts, st.integers(1, 4))
def test_a_chain_can_be_extended(head, tail, block):
    cache = PrefixCache(block)
    whole = cache.chain(head + tail, "salt")
    assert cache.chain(head + tail, "salt", known=cache.chain(head, "salt")) == whole


@given(st.text(max_size=60))
def test_tokenizer_is_lossless(text):
    tokenizer = Tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


# --- schedules, without a server ---------------------------------------------------------------


def planned(options, gaps=(10, 5, 5), *, chat=True):
    plan = schedule.plan(gaps, 0, len(gaps), 0, options)
    shape = schedule.ChunkShapes("id", options, chat=chat)
    counts = schedule.Counts(30, 16, len(gaps), 0)
    return schedule.stream_events(plan, 0, shape, counts, options, include_usage=True)


def kinds_and_ms(events):
    return [(event.kind, event.due_ns / 1e6) for event in events]


def test_scripted_times():
    assert kinds_and_ms(planned(Options())) == [
        ("role", 10),
        ("token", 10),
        ("token", 15),
        ("token", 20),
        ("usage", 20),
        ("done", 20),
    ]


def test_role_chunk_leads_and_empty_chunks_lie_between():
    events = kinds_and_ms(planned(Options(role_chunk_lead_ms=8, empty_chunks=1)))
    assert events[:5] == [("role", 2), ("empty", 5), ("token", 10), ("empty", 12.5), ("token", 15)]


def test_gaps_follow_the_uncached_tokens():
    options = Options(base_ms=3, ms_per_uncached_token=0.5, itl_ms=2, output_tokens=4)
    assert schedule.token_gaps_ms(options, [], 10, 99, ignore_eos=False) == [8, 2, 2, 2]
    assert schedule.token_gaps_ms(options, [], 10, 6, ignore_eos=True) == [8, 2, 2, 2, 2, 2]
    assert schedule.token_gaps_ms(options, [7, 1, 1], 10, 2, ignore_eos=False) == [7, 1]


@pytest.mark.parametrize(
    "options", [Options(), Options(coalesce=4), Options(split=True), Options(split=True, coalesce=3)]
)
def test_writes_carry_the_same_bytes_and_all_tokens(options):
    events = planned(options)
    writes = schedule.writes(events, options)
    body = b"".join(event.data for event in events)
    assert unchunked(b"".join(write.data for write in writes)) == body
    assert sum(write.tokens for write in writes) == 3
    assert [w.due_ns for w in writes] == sorted(w.due_ns for w in writes)


def test_the_second_half_of_a_split_write_comes_later_and_completes_the_token():
    options = Options(split=True, split_gap_ms=2)
    halves = schedule.writes(planned(options, gaps=(10,)), options)
    assert [(w.kind, w.tokens, w.due_ns / 1e6) for w in halves[:4]] == [
        ("half", 0, 10),
        ("role", 0, 12),
        ("half", 0, 12),
        ("token", 1, 14),
    ]


def unchunked(raw):
    body = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        body, raw = body + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
    return body


def test_unknown_options_are_refused():
    with pytest.raises(OptionError, match="bogus"):
        changed(Options(), {"bogus": 1})
    with pytest.raises(OptionError, match="persona"):
        Options(persona="nobody")


# --- the server over HTTP ----------------------------------------------------------------------

DEFAULTS = Options()
BASE = {"base_ms": 2, "itl_ms": 1, "record_chunks": True}


@pytest.fixture(scope="module")
def process():
    with FakeServer(**BASE) as server:
        yield server


@pytest.fixture
def server(process):
    """One process for all tests, put back to the same options and an empty cache."""
    options = {name: getattr(DEFAULTS, name) for name in vars(DEFAULTS)}
    process.control(**{**options, **BASE}, evict="all")
    process.clear_truth()
    return process


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.root_url, timeout=5, trust_env=False) as client:
        yield client


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


def test_full_hit_reads_what_the_block_size_predicts(server, client):
    assert cached(stream(client)) == 0
    again = stream(client)
    prompt = chunks(again)[-1]["usage"]["prompt_tokens"]
    assert cached(again) == (prompt - 1) // 16 * 16 > 0
    assert [r["cached_tokens"] for r in server.truth()] == [0, cached(again)]


def test_salts_isolate_unless_ignored_or_rejected(server, client):
    stream(client, cache_salt="a")
    assert cached(stream(client, cache_salt="b")) == 0
    assert cached(stream(client, cache_salt="a")) > 0
    server.control(honour_salt=False)
    stream(client)
    assert cached(stream(client, cache_salt="c")) > 0
    server.control(salt_rejected=True)
    assert chat(client, cache_salt="d").status_code == 400


def test_an_answer_is_cached_for_the_next_turn(server, client):
    server.control(output_tokens=64, base_ms=0, itl_ms=0)
    question = [{"role": "user", "content": LONG}]
    for tokens in range(32, 48):  # one of them ends exactly with a block
        body = {"messages": question, "max_tokens": tokens, "cache_salt": str(tokens)}
        first = client.post("/v1/chat/completions", json=body).json()
        answer = {"role": "assistant", "content": first["choices"][0]["message"]["content"]}
        body["messages"] = [*question, answer, {"role": "user", "content": "and"}]
        usage = client.post("/v1/chat/completions", json=body).json()["usage"]
        computed = first["usage"]["total_tokens"] - 1  # the last token generated has no KV yet
        assert usage["prompt_tokens_details"]["cached_tokens"] == computed // 16 * 16


def test_blocks_are_there_from_the_first_token_on(server, client):
    slow = {"X-Fake-Schedule": "150,150"}
    body = {"prompt": LONG, "stream": True}
    with client.stream("POST", "/v1/completions", json=body, headers=slow) as response:
        early = client.post(
            "/v1/completions", json={"prompt": LONG, "max_tokens": 1}, headers={"X-Fake-Schedule": "0"}
        )
        assert early.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        response.read()
    assert server.truth()[0]["cached_tokens"] == 0


def test_eviction_warming_and_reset(server, client):
    server.control(warm=[LONG, [{"role": "user", "content": LONG}]])
    assert cached(stream(client)) > 0
    server.control(evict=2)
    assert server.stats()["cache_blocks"] == 2
    assert client.post("/reset_prefix_cache").json() == {"success": True}
    assert cached(stream(client)) == 0
    server.control(reset="lie")
    assert client.post("/reset_prefix_cache").json() == {"success": True}
    assert cached(stream(client)) > 0
    server.control(capacity_blocks=3)
    assert cached(stream(client)) == 48


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
        "tests.fakes.openai_server",
        "--itl-ms",
        "1",
        "--no-metrics",
        "--lifeline",
    ]
    root = Path(__file__).parents[1]
    for end in (lambda p: os.kill(p.pid, signal.SIGTERM), lambda p: p.stdin.close()):
        process = subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        started = json.loads(process.stdout.readline())
        assert started["pid"] == process.pid
        assert httpx.get(f"http://127.0.0.1:{started['port']}/metrics", trust_env=False).status_code == 404
        end(process)
        assert process.wait(timeout=5) == 0
        process.stdout.close()
