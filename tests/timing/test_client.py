"""The client against a server whose stamps are known. No time is asserted against a limit of the machine."""

import socket

import pytest

from benchmarks.servers.process import FakeServer
from benchmarks.servers.tls import TlsFront
from kvlab.taxonomy import ErrorType
from kvlab.timing.client import Client
from kvlab.timing.request import Target

BODY = {"model": "fake", "messages": [{"role": "user", "content": "one two three"}], "stream": True,
        "stream_options": {"include_usage": True}, "max_tokens": 6}  # fmt: skip


def ask(server, timeout_s=20.0, path="/chat/completions", body=BODY, times=1, **target):
    with Client(Target(server.base_url, timeout_s=timeout_s, **target)) as client:
        return [client.measure(path, body, f"id-{i}") for i in range(times)]


def test_stamps_agree_with_the_servers():
    with FakeServer(base_ms=30, itl_ms=10, role_chunk_lead_ms=20, record_chunks=True) as server:
        (measured,) = ask(server)
        (truth,) = server.truth()
    stamps = measured.stamps
    # One clock for both processes: a stamp cannot be before the byte was sent. The role-only chunk
    # came 20 ms before the first token, so taking it for one would break this order.
    assert stamps.sent_ns < truth["received_ns"] < stamps.first_byte_ns < truth["first_token_emit_ns"]
    assert truth["first_token_emit_ns"] < stamps.first_token_ns <= stamps.first_content_ns
    assert truth["last_token_emit_ns"] < stamps.last_token_ns <= stamps.done_ns
    assert len(stamps.token_ns) == 6
    assert measured.generation.usage["completion_tokens"] == 6


@pytest.mark.parametrize(
    "shape", [{"coalesce": 4}, {"split": True}, {"empty_chunks": 2}, {"reasoning_tokens": 2}]
)
def test_the_shape_of_the_stream_changes_no_text(shape):
    with FakeServer() as plain, FakeServer(**shape) as server:
        (expected,), (measured,) = ask(plain), ask(server)
    assert measured.failure is None
    text = measured.generation.reasoning + measured.generation.text
    assert text.split() == expected.generation.text.split()
    if "reasoning_tokens" in shape:
        assert measured.stamps.first_token_ns < measured.stamps.first_content_ns


def test_one_connection_is_reused():
    with FakeServer() as server:
        assert all(m.failure is None for m in ask(server, times=5))
        assert server.stats()["connections"] <= 2  # the client's, and this call's own


@pytest.mark.parametrize(
    ("fault", "error_type", "status"),
    [
        ("status_429", ErrorType.RATE_LIMITED, 429),
        ("status_500", ErrorType.ENGINE_ERROR, 500),
        ("status_503", ErrorType.ENGINE_ERROR, 503),
        ("stall_before", ErrorType.TIMEOUT, None),
        ("stall_mid", ErrorType.TIMEOUT, 200),
        ("disconnect_before", ErrorType.ENGINE_ERROR, None),
        ("disconnect_mid", ErrorType.ENGINE_ERROR, 200),
        ("malformed", ErrorType.ENGINE_ERROR, 200),
        ("error_event", ErrorType.ENGINE_ERROR, 200),
    ],
)
def test_a_fault_is_a_failure_with_its_partial_stamps_and_the_next_request_is_well(fault, error_type, status):
    with FakeServer(faults={"1": fault}, fault_after_tokens=2) as server:
        failed, well = ask(server, timeout_s=1.0, times=2)
    assert (failed.failure.error_type, failed.failure.http_status) == (error_type, status)
    assert failed.generation is None
    assert failed.stamps.sent_ns > 0
    if fault in ("stall_mid", "disconnect_mid"):
        assert failed.stamps.first_token_ns is not None
        assert failed.stamps.done_ns is None
    assert well.failure is None


def test_a_stream_without_done_is_whole_if_it_gave_a_finish_reason():
    with FakeServer(faults={"1": "no_done"}) as server:
        (measured,) = ask(server)
    assert measured.failure is None


def test_nothing_there_is_a_failure_and_no_exception():
    with FakeServer() as server:
        gone = server
    (measured,) = ask(gone)
    assert measured.failure.error_type is ErrorType.ENGINE_ERROR
    assert "no connection" in measured.failure.message


def test_refusals_keep_the_servers_words():
    with FakeServer(max_model_len=5) as server:
        (long,) = ask(server)
        (model,) = ask(server, body={**BODY, "model": "nope"})
    assert long.failure.error_type is ErrorType.REFUSED_INPUT
    assert model.failure.error_type is ErrorType.REFUSED_INPUT
    assert "nope" in model.failure.message


def test_the_servers_own_field():
    with FakeServer(custom_metric_field="kv.reused", block_size=4) as server:
        first, again = ask(server, times=2, field_path="kv.reused")
    assert (first.generation.field_value, again.generation.field_value > 0) == (0, True)


def test_a_connection_that_the_server_dropped_is_opened_anew_before_the_clock():
    with FakeServer() as server, Client(Target(server.base_url)) as client:
        assert client.measure("/chat/completions", BODY, "a").failure is None
        client._socket.shutdown(socket.SHUT_RD)
        assert client.measure("/chat/completions", BODY, "b").failure is None


def test_https_is_verified_and_its_connection_is_reused(tmp_path, monkeypatch):
    with FakeServer() as server, TlsFront(server.port, tmp_path) as front:
        url = f"https://127.0.0.1:{front.port}/v1"
        with Client(Target(url)) as client:
            unknown = client.measure("/chat/completions", BODY, "a")
        assert "certificate" in unknown.failure.message.lower()
        monkeypatch.setenv("SSL_CERT_FILE", str(front.roots))
        with Client(Target(url)) as client:
            assert [client.measure("/chat/completions", BODY, f"b{i}").failure for i in range(3)] == [
                None
            ] * 3
    assert front.connections == 1, "TLS 1.3's session tickets are no sign of a closed connection"
