"""Fuzz of what a server sends: bytes of an answer, events, counters, and every page that it is asked for."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
from hypothesis import strategies as st

from benchmarks.servers.catalogue import FAULTS
from benchmarks.servers.catalogue.fault import BODY, LAST, SSE_HEAD, USAGE, chunk, chunked, event
from benchmarks.servers.odd_server import OddServer, Words, answer
from benchmarks.torture.fuzz import Target, anything, damaged, swapped
from benchmarks.torture.place import KEY_TEXT
from kvlab.endpoints import connect as endpoint
from kvlab.endpoints.batch_api import Batch
from kvlab.endpoints.counter import InputTokensCounter, ServerCounter
from kvlab.endpoints.identify import identify
from kvlab.endpoints.metrics import Scrape, difference
from kvlab.endpoints.pages import fetch
from kvlab.errors import KvlabError
from kvlab.settings import load_settings
from kvlab.timing.request import Target as Where
from kvlab.timing.request import Transfer, interpret
from kvlab.timing.response import MAX_BYTES, ResponseReader, WireError, retry_after_s
from kvlab.timing.stream import read_document

_WIRE = [
    b"".join(step for step in fault.steps if isinstance(step, bytes))[:20_000] for fault in FAULTS.values()
]
_WIRE = [data for data in _WIRE if data]

METRICS = b"""# HELP vllm:cache_config_info Information of the cache
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="512"} 1.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{model_name="m",engine="0"} 1234.0
vllm:prompt_tokens_by_source_total{model_name="m",engine="0",source="local_cache_hit"} 200.0
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 200.0
vllm:num_requests_running{engine="0",model_name="m"} 0.0
# TYPE vllm:e2e_request_latency_seconds histogram
vllm:e2e_request_latency_seconds_sum{engine="0",model_name="m"} 3.25
vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf",model_name="m"} 12.0
vllm:e2e_request_latency_seconds_count{engine="0",model_name="m"} 12.0
vllm:request_prefill_time_seconds_sum{engine="0",model_name="m"} 1.25
vllm:request_prefill_time_seconds_count{engine="0",model_name="m"} 12.0
process_start_time_seconds 1.7e+09
"""
_PAGES: dict[str, Any] = {
    "v1/models": {"object": "list", "data": [{"id": "fake", "owned_by": "vllm", "max_model_len": 8192, "root": "x", "aliases": ["y"]}]},
    "version": {"version": "0.32.0"},
    "props": {"build_info": "b1234", "default_generation_settings": {"n_ctx": 4096}},
    "api/version": {"version": "0.5.1"},
    "tokenize": {"count": 3, "tokens": [1, 2, 3], "max_model_len": 8192},
    "v1/chat/completions/input_tokens": {"input_tokens": 12},
}  # fmt: skip


def targets() -> list[Target]:
    """Return what is fuzzed here."""
    page = st.sampled_from(sorted(_PAGES)).flatmap(
        lambda name: st.tuples(
            st.just(name), _body(_PAGES[name]), st.sampled_from((200, 200, 200, 204, 404, 500))
        )
    )
    return [
        Target("HTTP of an answer", _reads(damaged(st.sampled_from(_WIRE)) | st.binary(max_size=400)), _wire, 6000,
               worded=(WireError,)),
        Target("SSE of an answer", _reads(damaged(st.just(BODY))), _events, 4000),
        Target("chunks of a stream", st.lists(_chunk(), min_size=1, max_size=5), _chunks, 3000),
        Target("an answer in one document", damaged(st.just(_document())) | anything().map(_json), _one_document, 2000),
        Target("/metrics", damaged(st.just(METRICS)) | st.binary(max_size=300), _metrics, 2500),
        Target("headers of time", st.text(max_size=40) | st.sampled_from(_DATES), retry_after_s, 1500),
        Target("a server's pages", st.lists(page, min_size=1, max_size=4), _identify, 500),
        Target("counts of tokens", _body(_PAGES["tokenize"]) | _body({"input_tokens": 5}), _count, 800),
        Target("pages of the batch API", _body({"id": "b", "status": "completed", "output_file_id": "f", "errors": None}), _batch, 600),
        Target("a whole connection", st.tuples(st.just(_json(_PAGES["v1/models"])) | _body(_PAGES["v1/models"]), st.integers(0, 2**32),
               st.sampled_from((0.0, 0.1, 0.5))), _connect, 120, limit_s=60.0),
    ]  # fmt: skip


_DATES = [
    "Wed, 25 Nov 2026 14:00:00 GMT", "Wed, 99 Nov 2026 14:00:00 GMT", "7", "7.5", "-1", "1e5", "٣", "", "0", "9" * 400,
    "Sun, 06 Nov 0000 08:49:37 GMT", "Mon, 01 Jan 99999 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 +9999",
]  # fmt: skip


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _body(good: Any) -> st.SearchStrategy[bytes]:
    """A page: the right one with odd values, anything at all, or bytes that are damaged."""
    return swapped(good, anything()).map(_json) | anything().map(_json) | damaged(st.just(_json(good)))


def _reads(data: st.SearchStrategy[bytes]) -> st.SearchStrategy[tuple[bytes, list[int], bool]]:
    """Bytes, where the reads cut them, and whether the connection ends then."""
    return st.tuples(data, st.lists(st.integers(0, 20_000), max_size=6), st.booleans())


def _wire(value: tuple[bytes, list[int], bool]) -> object:
    data, cuts, _ = value
    reader = ResponseReader(max_bytes=2**20)
    at = 0
    for t_ns, cut in enumerate([*sorted(cuts), len(data)], 1):
        if reader.feed(t_ns * 1_000_000, data[at:cut]):
            break
        at = max(at, cut)
    reader.end(9_000_000_000)
    found = interpret(Where("http://x/v1"), reader, Transfer(0))
    assert found.failure is not None or found.generation is not None
    return repr(found)


def _events(value: tuple[bytes, list[int], bool]) -> object:
    body, cuts, ends = value
    return _wire((SSE_HEAD + chunked(body or b" ") + (LAST if ends else b""), cuts, ends))


def _chunk() -> st.SearchStrategy[Any]:
    good = [chunk({"role": "assistant", "content": ""}), chunk({"content": "a", "reasoning_content": "b"}),
            chunk({"content": "x"}, "stop"), chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1"}}]}),
            {"choices": [], "usage": USAGE}, {"error": {"message": "no", "code": 400, "type": "x"}}]  # fmt: skip
    return st.one_of([swapped(item, anything()) for item in good]) | anything()


def _chunks(chunks: list[Any]) -> object:
    body = b"".join(event(_json(item)) for item in chunks) + b"data: [DONE]\n\n"
    where = Where(
        "http://x/v1", field_path="usage.prompt_tokens_details.cached_tokens", kept_path="usage.kept"
    )
    reader = ResponseReader(MAX_BYTES)
    reader.feed(1_000_000, SSE_HEAD + chunked(body) + LAST)
    found = interpret(where, reader, Transfer(0))
    from kvlab.endpoints.answer import evidence_of
    from kvlab.evidence import CacheLaw, classify

    if found.generation is not None:
        evidence = evidence_of(found, asked="m", aliases=frozenset())
        return classify(evidence, CacheLaw.whole_blocks(16), 4)
    return found


def _document() -> bytes:
    return _json(
        {
            "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
            "usage": USAGE,
        }
    )


def _one_document(body: bytes) -> object:
    return read_document(body, "usage.x.y", "kept")


def _metrics(data: bytes) -> object:
    text = data.decode(errors="replace")
    try:
        found = Scrape.parse(text)
    except ValueError:
        return None  # not one line of it is in that format: what its caller words
    good = Scrape.parse(METRICS.decode())
    found.falls_behind(good)
    return found.block_size(), found.busy(), found.cached_tokens(), difference(good, found, 100)


def _count(page: bytes) -> object:
    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=page)))
    for counter in (ServerCounter, InputTokensCounter):
        try:
            counter(http, "http://x/tokenize", "fake")({"messages": [{"role": "user", "content": "x"}]})
        except KvlabError:
            continue
    return fetch(http, "http://x/").message()


def _batch(page: bytes) -> object:
    import stamina

    http = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=page)))
    with stamina.set_testing(True, attempts=1):
        batch = Batch(http, "http://x/v1", 10.0)
        batch.absent()
        try:
            return batch.look("b")
        except (httpx.HTTPError, ValueError):
            return None  # what its caller bears, a few times in a row


def _identify(pages: list[tuple[str, bytes, int]]) -> object:
    """Identify a server whose pages are these; those not named are right."""
    served = {name: (200, _json(page)) for name, page in _PAGES.items()} | {"metrics": (200, METRICS)}
    served |= {name: (status, data) for name, data, status in pages}

    def handle(request: httpx.Request) -> httpx.Response:
        status, data = served.get(request.url.path.lstrip("/"), (404, b"{}"))
        return httpx.Response(status, content=data)

    with endpoint.connect(load_settings()) as connection:
        connection.http = httpx.Client(transport=httpx.MockTransport(handle))
        connection.metrics._http = connection.http
        return repr(identify(connection))


def _connect(value: tuple[bytes, int, float]) -> object:
    """Connect to a server whose model list is odd and which damages some of its answers: every probe runs."""
    models, number, share = value
    draw, words = random.Random(number), Words(16)

    def chat(body: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        length, cached = words.read(body)
        data = answer(length, cached, model="fake")[1]
        if draw.random() < share:
            data = _mangled(data, draw)
        return 200, data, {"Content-Type": "text/event-stream"}

    with OddServer(chat, v1__models=(200, models)) as odd:
        import kvlab

        with kvlab.connect(odd.base_url, model="fake", api_key=KEY_TEXT) as server:
            return repr(server.ask(server.prompt(tokens=120)))


def _mangled(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 2, 8))):
        at = draw.randrange(len(changed))
        change = draw.randrange(3)
        if change == 0:
            changed[at] = draw.randrange(256)
        elif change == 1:
            del changed[at : at + draw.randrange(1, 20)]
        else:
            changed[at:at] = changed[: draw.randrange(60)]
        if not changed:
            return b""
    return bytes(changed)
