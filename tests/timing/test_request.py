"""What is made of a request's bytes and moments. Stamps are handed in."""

from datetime import UTC, datetime

import pytest

from benchmarks.servers.catalogue.fault import LAST, ROLE, SSE_HEAD, USAGE_EVENT, WORDS, chunked
from kvlab.errors import InputError
from kvlab.taxonomy import RETRYABLE, ErrorType
from kvlab.timing.request import Failure, Measurement, Target, Transfer, interpret
from kvlab.timing.response import ResponseReader, retry_after_s
from kvlab.timing.stamps import Stamps, came_together

MS = 1_000_000
TARGET = Target("http://x/v1")


def measured(reads, **transfer):
    """A request that was sent at 0 and whose answer arrived in these reads: (ms, bytes)."""
    reader = ResponseReader()
    for t_ms, data in reads:
        reader.feed(int(t_ms * MS), data)
    return interpret(TARGET, reader, Transfer(0, **transfer))


def streamed(first_ms=400, gap_ms=5.0, tokens=4):
    """The reads of an answer of ``tokens`` words."""
    words = [WORDS[0]] * (tokens - 1) + [WORDS[-1]]
    reads = [(first_ms + n * gap_ms, chunked(word)) for n, word in enumerate(words)]
    last_ms = reads[-1][0]
    return [(first_ms / 2, SSE_HEAD + chunked(ROLE)), *reads, (last_ms, chunked(USAGE_EVENT) + LAST)]


def test_a_streamed_answer_has_its_times():
    found = measured(streamed())
    assert (found.stamps.ttft_ms, found.stamps.untimed, found.unusable) == (400, None, None)
    assert len(found.stamps.token_ns) == 4


@pytest.mark.parametrize(("first_ms", "gap_ms", "tokens"), [(400, 0, 6), (400, 0, 24), (2000, 0.01, 24)])
def test_tokens_that_came_together_have_no_times(first_ms, gap_ms, tokens):
    found = measured(streamed(first_ms, gap_ms, tokens))
    assert found.failure is None
    assert found.generation.text
    assert (found.stamps.ttft_ms, found.stamps.token_ns) == (None, ())
    assert "came together" in found.stamps.untimed
    assert found.stamps.latency_ms == pytest.approx(first_ms + gap_ms * (tokens - 1))
    assert [name for name, _, _ in found.notes] == ["untimed"] + ["usage_contradiction"] * (tokens > 10)


@pytest.mark.parametrize(
    ("sent_ms", "token_ms"),
    [
        (0, [400]),  # one token says nothing
        (0, [400, 400]),  # nor do two: an engine may emit them in one step
        (0, [2000, 2001, 2002, 2003]),  # a fast engine, a slow prefill
        (0, [1, 1.05, 1.1, 1.15]),  # an answer that is there at once
    ],
)
def test_what_may_have_been_streamed_is_taken_for_it(sent_ms, token_ms):
    assert came_together(sent_ms * MS, [int(ms * MS) for ms in token_ms]) is None


@pytest.mark.parametrize(
    ("stall_ms", "counts"), [(0, True), (19, True), (99, True), (101, False), (5000, False)]
)
def test_a_stall_of_this_client_takes_the_times_and_asks_for_another_attempt(stall_ms, counts):
    found = measured(streamed(), client_stall_ms=float(stall_ms))
    assert found.failure is None
    assert (found.unusable is None) == counts
    assert (found.stamps.ttft_ms is not None) == counts
    assert (found.stamps.latency_ms is not None) == counts
    assert found.stamps.done_ns is not None, "late at most, which a rate over many requests bears"
    if not counts:
        assert found.unusable.error_type is ErrorType.CLIENT_STALLED
        assert f"stood still for {stall_ms} ms" in found.unusable.message
        assert found.unusable.error_type in RETRYABLE
        assert found.unusable.is_outage


def test_a_stall_that_is_a_small_share_of_a_long_request_counts():
    assert measured(streamed(60_000), client_stall_ms=300.0).unusable is None


def test_a_failure_keeps_its_reason_beside_a_stall():
    failure = Failure(ErrorType.TIMEOUT, "slow")
    found = measured(streamed()[:3], client_stall_ms=5000.0, failure=failure)
    assert found.unusable is found.failure
    assert found.failure.error_type is ErrorType.TIMEOUT


def test_what_a_server_said_before_it_fell_silent_is_in_the_message():
    said = b'event: error\ndata: {"message": "engine died"}\n\n'
    failure = Failure(ErrorType.TIMEOUT, "no complete answer within 2 s", 200)
    found = measured([(1, SSE_HEAD + chunked(said))], failure=failure)
    assert found.failure.message == "no complete answer within 2 s; before that: engine died"


def test_an_event_that_was_cut_off_is_no_malformed_one():
    failure = Failure(ErrorType.ENGINE_ERROR, "the server closed the connection", 200)
    found = measured([(1, SSE_HEAD + chunked(WORDS[0] + WORDS[1][:30]))], failure=failure)
    assert found.failure.message == "the server closed the connection"
    assert len(found.stamps.token_ns) == 1


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b", "a\x7fb", "a\u20ac"])
def test_a_header_that_would_begin_another_is_refused_without_its_value(value):
    with pytest.raises(InputError) as refused:
        Target("http://x/v1", {"Authorization": value}).encode("/chat/completions", {}, {})
    assert "header Authorization" in str(refused.value)
    assert value not in str(refused.value)


def test_a_path_and_a_host_of_any_letters_are_sent_as_ascii():
    head = Target("http://höst.example/ä b/v1").encode("/chat/completions", {}, {}).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"POST /%C3%A4%20b/v1/chat/completions HTTP/1.1\r\n")
    assert b"Host: xn--hst-sna.example\r\n" in head


NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None), ("", None), ("6", 6), (" 0 ", 0), ("0.5", 0.5), ("-5", None), ("soon", None), ("1e3", None), ("²", None),
        ("Tue, 01 Jan 2030 00:00:09 GMT", 9), ("Mon, 31 Dec 2029 00:00:00 GMT", 0), ("Tue, 99 Jan 2030", None),
        ("Tuesday, 01-Jan-30 00:00:09 GMT", 9), ("9" * 40, 1e9),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert retry_after_s(value, NOW) == seconds


def test_a_measurement_is_made_without_the_rest():
    assert Measurement(Stamps(1)).notes == []
