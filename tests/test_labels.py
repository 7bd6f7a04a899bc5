"""Every label against the truth of a server that logs its own cache."""

import random

import pytest

from benchmarks.servers.process import FakeServer
from kvlab.endpoints import connect as endpoint
from kvlab.endpoints import probe
from kvlab.endpoints.identify import identify
from kvlab.endpoints.openai import Call, OpenAICompat
from kvlab.evidence import CacheState, full_hit_tokens
from kvlab.settings import load_settings


def words(draw, count):
    return " ".join(f"w{draw.randrange(10**6)}" for _ in range(count))


class Bench:
    """An engine on a fake server, with the truth of each request beside its label."""

    def __init__(self, server, point_at):
        self.server = server
        point_at(server)
        self.connection = endpoint.connect(load_settings())
        self.identity = probe.probe(self.connection, identify(self.connection))
        self.engine = OpenAICompat(self.connection, self.identity, counter=None)  # nothing is counted here
        self.number = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def ask(self, text, salt=None):
        self.number += 1
        request_id = f"r{self.number}"
        prompt = {"messages": [{"role": "user", "content": text}]}
        row = self.engine.ask(Call(request_id, "any", prompt, {"max_tokens": 2}, salt))
        truth = next(t for t in self.server.truth() if t["request_id"] == request_id)
        return row, truth

    def expected(self, truth):
        cached, full = (
            truth["cached_tokens"],
            full_hit_tokens(truth["prompt_tokens"], self.identity.block_size),
        )
        if cached == 0:
            return CacheState.COLD
        return CacheState.HIT if cached == full else CacheState.PARTIAL


@pytest.mark.parametrize("capacity", [0, 40])
def test_warm_start_partial_prefixes_and_evictions(point_at, capacity):
    draw = random.Random(capacity)
    documents = [words(draw, 60 + 7 * i) for i in range(6)]
    seen = set()
    with (
        FakeServer(base_ms=1, itl_ms=0, block_size=8, capacity_blocks=capacity, warm_prompts=[
            [{"role": "user", "content": documents[0]}]]) as server,
        Bench(server, point_at) as bench,
    ):  # fmt: skip
        for _ in range(60):
            document = draw.choice(documents)
            kept = draw.choice([1.0, 1.0, 0.5, 0.2])
            cut = " ".join(document.split()[: int(len(document.split()) * kept)])
            text = cut if kept == 1.0 else cut + " " + words(draw, 20)
            if draw.random() < 0.05:
                server.control(evict="all")
            row, truth = bench.ask(text)
            assert row.state is bench.expected(truth), (row.label, truth)
            assert row.label.cached_tokens == truth["cached_tokens"]
            assert row.evidence.metrics_tokens == truth["cached_tokens"]
            seen.add(row.state)
    assert seen == {CacheState.COLD, CacheState.HIT, CacheState.PARTIAL}


@pytest.mark.parametrize(
    "options", [{"usage": "no_details", "metrics": False}, {"usage": "none", "metrics": False}]
)
def test_silence_is_unverified_and_never_cold(point_at, options):
    draw = random.Random(1)
    with FakeServer(base_ms=1, itl_ms=0, **options) as server, Bench(server, point_at) as bench:
        assert bench.identity.facts["cached_tokens"].holds is False
        for text in (first := words(draw, 50), first, words(draw, 50)):
            row, _ = bench.ask(text)
            assert row.state is CacheState.UNVERIFIED
            assert row.label.cached_tokens is None


def test_without_usage_details_the_counters_are_the_evidence(point_at):
    draw = random.Random(2)
    with FakeServer(base_ms=1, itl_ms=0, usage="no_details") as server, Bench(server, point_at) as bench:
        for text in (first := words(draw, 50), first, first):
            row, truth = bench.ask(text)
            assert row.state is bench.expected(truth)
            assert row.label.source == "metrics"


@pytest.mark.parametrize("lie", ["zero", "+16"])
def test_an_answer_that_its_own_counters_contradict_is_unverified(point_at, lie):
    draw = random.Random(3)
    with FakeServer(base_ms=1, itl_ms=0, lying_usage=lie) as server, Bench(server, point_at) as bench:
        text = words(draw, 50)
        bench.ask(text)
        row, truth = bench.ask(text)
        assert truth["cached_tokens"] > 0
        assert row.state is CacheState.UNVERIFIED


def test_salt_isolates_where_it_is_honoured_and_its_absence_is_found_out(point_at):
    draw = random.Random(4)
    text = words(draw, 50)
    for options, holds in (({}, True), ({"honour_salt": False}, False), ({"salt_rejected": True}, False)):
        with FakeServer(base_ms=1, itl_ms=0, **options) as server, Bench(server, point_at) as bench:
            assert bench.identity.facts["salt"].holds is holds
            states = [bench.ask(text, salt)[0].state for salt in ("a", "b", "a")]
            assert states == (
                [CacheState.COLD] * 2 + [CacheState.HIT]
                if holds
                else [CacheState.COLD] + [CacheState.HIT] * 2
            )


def test_someone_elses_traffic_takes_the_counters_away_and_not_the_label(point_at):
    with FakeServer(base_ms=1, itl_ms=0) as server, Bench(server, point_at) as bench:
        view = bench.connection.metrics.scrape()
        for _ in range(2):
            bench.ask("one two three")
        found = bench.connection.metrics.view(view)
        assert found.cached_tokens is None
        assert "2 requests" in found.reason


@pytest.mark.parametrize(
    ("persona", "kind"),
    [("vllm", "vLLM"), ("llamacpp", "llama.cpp"), ("ollama", "Ollama"), ("other", "other")],
)
def test_what_answers(point_at, persona, kind):
    with FakeServer(persona=persona, metrics=persona == "vllm") as server, Bench(server, point_at) as bench:
        assert bench.identity.kind == kind
        assert (bench.identity.block_size is not None) == (persona == "vllm")


def test_a_tokenizer_that_takes_no_chats_counts_none(point_at):
    """llama.cpp answers what it does not know with no tokens, and HTTP 200."""
    with FakeServer(persona="llamacpp", base_ms=1, itl_ms=0) as server, Bench(server, point_at) as bench:
        assert bench.identity.facts["tokenizer"].holds is False
        assert "0 tokens" in bench.identity.facts["tokenizer"].why
        assert not bench.identity.can("token_ids")
        assert probe.counter(bench.connection, bench.identity).exact is False
