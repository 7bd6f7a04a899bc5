"""Rows out of odd answers: each is one row that the database takes, whatever the server said."""

import json

import pytest

from kvlab.load.recorder import Rows
from kvlab.store import frames
from tests.load.bench import TRIAL, Bench, finished

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
GOOD = {"choices": [{"delta": {"content": "A"}, "finish_reason": "stop"}]}


def answer(*chunks):
    body = "".join(f"data: {chunk if isinstance(chunk, str) else json.dumps(chunk)}\n\n" for chunk in chunks)
    data = body.encode() + b"data: [DONE]\n\n"
    return HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)


def recorded(folder, raw):
    bench = Bench(folder)
    job = bench.job("http://x/v1", 1)
    with bench.database.transaction():
        base = bench.database.add_prompt({"marker": job.workload.marker, "text": job.workload.text})
    bench.database.record_items("r", TRIAL, [Rows(job, base).row(finished(0, [(2, raw)]))])
    assert frames.integrity(bench.database.sql) == []
    frames.requests(bench.database.sql)  # can be read back, too
    return bench


@pytest.mark.parametrize(
    "raw",
    [
        answer({"choices": [None]}),
        answer({"choices": [{"delta": {"content": ["A"]}}]}),
        answer(GOOD, "[1]"),
        answer(GOOD, '{"usage": {"prompt_tokens": NaN}}'),
        answer({"error": {"message": "\ud800"}}),
        b'HTTP/1.1 500 No\r\ncontent-length: 18\r\n\r\n{"error":"\\ud800"}',
        b"HTTP/1.1 500 No\r\n\r\n" + b"[" * 100_000,
        b"HTTP/1.1 200 OK\r\ncontent-length: \xb2\r\n\r\n",
        b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n",
        HEAD + b"-6\r\nabc\r\n0\r\n\r\n",
        b"\x00\xff no HTTP at all\r\n\r\n",
        b"",
    ],
)
def test_a_malformed_answer_is_a_failure_with_a_reason(tmp_path, raw):
    ((kind, message),) = recorded(tmp_path, raw).read("SELECT error_type, message FROM failures")
    assert kind == "ENGINE_ERROR"
    assert message


def test_half_a_character_is_stored_as_a_replacement(tmp_path):
    odd = {"choices": [{"delta": {"content": "a\ud83d"}, "finish_reason": "stop\udc00"}]}
    rows = recorded(tmp_path, answer(odd)).read("SELECT text, finish_reason FROM responses")
    assert rows == [("a\ufffd", "stop\ufffd")]


@pytest.mark.parametrize("count", [10**40, -1, "many", [1], {"a": 1}, True, 1.5])
def test_a_token_count_that_is_none_is_unknown(tmp_path, count):
    usage = {
        "prompt_tokens": count,
        "completion_tokens": count,
        "prompt_tokens_details": {"cached_tokens": count},
    }
    bench = recorded(tmp_path, answer({**GOOD, "usage": usage}))
    rows = bench.read("SELECT prompt_tokens, completion_tokens, cached_tokens, cache_state FROM responses")
    assert rows == [(None, None, None, "unverified")]
