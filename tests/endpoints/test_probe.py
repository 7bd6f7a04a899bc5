"""What is found out about odd servers, and that a run and `doctor` are told the same."""

import itertools
import zlib

import pytest

from benchmarks.servers.odd_server import OddServer, Words, answer
from kvlab.endpoints import connect as endpoint
from kvlab.endpoints import probe, proof
from kvlab.endpoints.counter import CalibratedCounter, InputTokensCounter, shared_start
from kvlab.endpoints.identify import identify
from kvlab.endpoints.openai import Call, OpenAICompat
from kvlab.errors import InputError, KvlabError
from kvlab.evidence import CacheLaw, CacheState
from kvlab.prompts import manual
from kvlab.settings import load_settings


@pytest.fixture
def probed(monkeypatch):
    """Probe a server; returns the engine on it."""
    opened = []

    def run(server, **settings):
        for name, value in {"base_url": server.base_url, "api_key": "EMPTY", "model": "m"}.items():
            monkeypatch.setenv(f"OPENAI_{name.upper()}", value)
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        connection = endpoint.connect(load_settings())
        opened.append(connection)
        identity = probe.probe(connection, identify(connection))
        return OpenAICompat(connection, identity, probe.counter(connection, identity))

    yield run
    for connection in opened:
        connection.close()


def cached(words, **more):
    """A chat page with a prefix cache; what stands in ``more`` is said of each answer."""

    def page(body):
        tokens, read = words.read(body)
        return answer(tokens, read, **more)

    return page


def refusing(refuses, page, words=""):
    """A chat page that answers 400 to some bodies."""
    return lambda body: (400, {"error": {"message": words}}) if refuses(body) else page(body)


def ask(engine, text):
    """One measured request."""
    call = Call("r", "any", {"messages": [{"role": "user", "content": text}]}, {"max_tokens": 1})
    return engine.ask(call)


def test_a_cache_that_reuses_by_the_token_is_learned_and_its_labels_are_proven(probed):
    with OddServer(cached(Words(grain=1, start=7))) as server:
        engine = probed(server)
        assert engine.identity.law == CacheLaw.by_token(7)
        assert proof.proves(engine.identity).holds
        text = "one two three four five six seven eight nine"
        rows = [ask(engine, each) for each in (text, text, "another of its own")]
        assert [row.state for row in rows] == [CacheState.COLD, CacheState.HIT, CacheState.COLD]
        assert [row.label.cached_tokens for row in rows] == [7, 15, 7]


def test_what_all_prompts_of_a_kind_share_is_found_by_evidence(probed):
    with OddServer(cached(Words(grain=1, start=9))) as server:
        engine = probed(server)
        samples = [
            manual.build(mark, "Section 1.", api="chat", question="why?", marker_role="system")
            for mark in (manual.marker("sample", "a"), manual.marker("sample", "b"))
        ]
        for _ in range(2):  # a server that is warm from the first time says the same
            assert shared_start(engine.counter, *samples) == 9


def test_an_unknown_grain_proves_cold_requests_and_no_hits(probed):
    with OddServer(cached(Words(grain=48))) as server:
        engine = probed(server)
    assert engine.identity.law is None
    verdict = proof.proves(engine.identity)
    assert verdict.holds is False
    assert "KV_BLOCK_SIZE_TOKENS" in verdict.why


def test_another_model_answers(probed):
    with OddServer(cached(Words(grain=1), model="fallback-7b")) as server:
        engine = probed(server)
        assert "'fallback-7b'" in engine.identity.facts["cache_states"].why
        row = ask(engine, "one two")
        assert row.state is CacheState.UNVERIFIED
        assert "'fallback-7b' answered" in row.label.reason


def test_usage_that_cannot_be_its_streams_proves_nothing(probed):
    with OddServer(cached(Words(grain=1), tokens=40, said=2)) as server:
        row = ask(probed(server), "one two")
        assert row.state is CacheState.UNVERIFIED
        assert "40 events with text, and 2 completion tokens" in row.label.reason


@pytest.mark.parametrize(
    ("refuses", "words", "body"),
    [
        (lambda b: "stream_options" in b, "unknown field stream_options", {"stream_options": None}),
        (lambda b: "max_tokens" in b, "Use 'max_completion_tokens' instead.", {"max_completion_tokens": 1}),
        (lambda b: "temperature" in b, "'temperature' does not support 0", {"temperature": None}),
    ],
)
def test_requests_are_written_as_the_server_wants_them(probed, refuses, words, body):
    with OddServer(refusing(refuses, cached(Words(grain=1)), words)) as server:
        engine = probed(server)
        assert engine.identity.can("cached_tokens")
        assert engine.identity.can("request_form")
        before = len(server.bodies)
        assert ask(engine, "one two").ok
        assert len(server.bodies) == before + 1
        for name, value in body.items():
            assert server.bodies[-1].get(name) == value


def test_a_context_smaller_than_the_probe_is_probed_with_less(probed):
    words = Words(grain=1)
    too_long = refusing(lambda body: len(words.tokens(body)) > 300, cached(words), "too long")
    with OddServer(too_long) as server:
        assert probed(server).identity.can("cached_tokens")


def test_a_first_token_without_text_hides_no_usage(probed):
    def page(body):
        tokens, read = words.read(body)
        return answer(tokens, read, text=None if body["max_tokens"] == 1 else "a")

    words = Words(grain=1)
    with OddServer(page) as server:
        engine = probed(server)
        assert engine.identity.can("cached_tokens")
        assert isinstance(engine.counter, CalibratedCounter)


@pytest.mark.parametrize("status", [500, 400, 404])
def test_a_server_that_answers_no_request_says_why(probed, status):
    said = {"error": {"message": "the tokens have run out"}}
    with (
        OddServer((status, said)) as server,
        pytest.raises(KvlabError, match=said["error"]["message"]) as raised,
    ):
        probed(server)
    assert ("OPENAI_MODEL" in str(raised.value)) == (status == 404)
    assert isinstance(raised.value, InputError) == (status != 500)


def test_a_busy_server_is_waited_for(probed, monkeypatch):
    left = iter([429, 503])

    def page(body):
        status = next(left, None)
        return (status, {}) if status else cached(words)(body)

    words = Words(grain=1)
    with OddServer(page) as server:
        assert probed(server).identity.can("cached_tokens")


def test_a_zero_that_stays_zero_when_a_prompt_is_repeated_proves_nothing(probed):
    words = Words(grain=1)
    with OddServer(lambda body: answer(words.read(body)[0], 0)) as server:
        engine = probed(server)
        assert engine.identity.facts["reuse"].holds is False
        assert proof.proves(engine.identity).holds is False
        row = ask(engine, "one two")
        assert row.state is CacheState.UNVERIFIED
        assert "prove nothing" in row.label.reason


def test_a_field_that_is_there_for_hits_alone_shows_nothing_cold(probed):
    words = Words(grain=1)

    def page(body):
        tokens, read = words.read(body)
        return answer(tokens, read if read > 4 else None)

    with OddServer(page) as server:
        engine = probed(server)
        assert "nothing cold is shown" in proof.proves(engine.identity).why


def test_a_configured_field_that_contradicts_usage_is_no_proof(probed):
    words = Words(grain=1)

    def page(body):
        tokens, read = words.read(body)
        status, data, headers = answer(tokens, read)
        return status, data.replace(b'"choices": [],', b'"choices": [], "own": %d,' % (read // 2)), headers

    with OddServer(page) as server:
        engine = probed(server, KV_METRIC_RESPONSE_FIELD="own")
        assert "usage" in proof.proves(engine.identity).why
        for _ in range(2):
            row = ask(engine, "one two three four five six seven eight nine")
        assert row.state is CacheState.UNVERIFIED
        assert "the response field says" in row.label.reason


def test_llama_cpps_own_count_of_a_chat_is_exact(probed):
    words = Words(grain=1)
    count = lambda body: (200, {"input_tokens": len(words.tokens(body))})  # noqa: E731
    pages = {"v1__chat__completions__input_tokens": count, "props": (200, {"build_info": "b1"})}
    with OddServer(cached(words), **pages) as server:
        engine = probed(server)
        assert engine.identity.kind == "llama.cpp"
        assert isinstance(engine.counter, InputTokensCounter)
        assert engine.counter({"messages": [{"role": "user", "content": "one two"}]}) == 6


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_replicas_in_turns_are_seen_by_the_repeats_that_find_nothing(probed, replicas):
    turns = itertools.cycle([cached(Words(grain=1)) for _ in range(replicas)])
    with OddServer(lambda body: next(turns)(body)) as server:
        identity = probed(server).identity
        assert identity.facts["one_cache"].holds is (replicas == 1)
        assert identity.law == CacheLaw.by_token(4)
        verdict = proof.proves(identity)
        assert verdict.holds, "what is cold and what is a hit is shown all the same"
        assert ("several replicas" in verdict.why) == (replicas > 1)


def llama_cpp(words, off=0):
    """Pages of llama.cpp's server: it counts chats, and lists tokens of a text that the template was applied to."""

    def numbers(body):
        return 200, {"tokens": [zlib.crc32(word.encode()) for word in body["content"].split()] + [0] * off}

    count = lambda body: (200, {"input_tokens": len(words.tokens(body))})  # noqa: E731
    template = lambda body: (200, {"prompt": " ".join(words.tokens(body))})  # noqa: E731
    pages = {"v1__chat__completions__input_tokens": count, "props": (200, {"build_info": "b1"})}
    return pages | {"apply-template": template, "tokenize": numbers}


@pytest.mark.parametrize(("off", "shared"), [(0, 24), (1, 0)])
def test_a_template_s_start_is_listed_where_chats_cannot_be_tokenized_at_once(probed, off, shared):
    """llama.cpp's chats begin with a default system prompt; a list that has not as many tokens as counted is none."""
    words = Words(grain=1, start=24)
    with OddServer(cached(words), **llama_cpp(words, off)) as server:
        engine = probed(server)
        chats = [{"messages": [{"role": "user", "content": text}]} for text in ("a first", "the other one")]
        asked = len([body for body in server.bodies if body.get("stream")])
        assert shared_start(engine.counter, *chats) == shared
        assert len([body for body in server.bodies if body.get("stream")]) == asked, "nothing is generated"


def test_the_first_look_at_llama_cpp_takes_few_tokens(probed):
    words = Words(grain=1)
    with OddServer(cached(words), **llama_cpp(words)) as server:
        probed(server)
        assert max(len(words.tokens(body)) for body in server.bodies if body.get("stream")) < 700


@pytest.mark.parametrize("off", [3, 0])
def test_a_tokenizer_is_held_against_usage(probed, off):
    words = Words(grain=16)

    def count(body):
        tokens = words.tokens(body) if "messages" in body else body["prompt"].split()
        return 200, {"tokens": list(range(len(tokens) - (off if "messages" in body else 0)))}

    with OddServer(cached(words), tokenize=count) as server:
        counter = probed(server).counter
        assert counter({"messages": [{"role": "user", "content": "one two"}]}) == 6
        assert counter({"prompt": "one two"}) == 2


def told(words, says):
    """A chat page that says of its cached tokens what ``says`` makes of the truth."""

    def page(body):
        tokens, read = words.read(body)
        return answer(tokens, says(read))

    return page


@pytest.mark.parametrize(
    ("grain", "says", "stated", "proven"),
    [
        (1, lambda read: read, "", True),
        (16, lambda read: read, "16", True),
        (16, lambda read: read, "", False),  # what a full hit is, is not known
        (16, lambda read: read, "32", False),  # and here it is known wrongly
        (16, lambda read: None, "16", False),
        (16, lambda read: 0, "16", False),
        (16, lambda read: read or None, "16", False),
        (16, lambda read: read + 7, "16", False),
        (16, lambda read: 10**6, "16", False),
    ],
)
def test_what_doctor_promises_is_what_a_run_delivers(probed, grain, says, stated, proven):
    """One judgement: pairs are proven on a server exactly where it was said that they would be."""
    with OddServer(told(Words(grain, start=0), says)) as server:
        engine = probed(server, KV_BLOCK_SIZE_TOKENS=stated)
        assert proof.proves(engine.identity).holds is proven
        assert (proof.lacking(engine.identity, ["cached_tokens"]) == []) is proven
        states = []
        for first in ("one", "two"):
            text = f"{first} " + " ".join(f"w{i}" for i in range(82))
            states += [ask(engine, text).state for _ in range(2)]
        assert (states == [CacheState.COLD, CacheState.HIT] * 2) is proven
