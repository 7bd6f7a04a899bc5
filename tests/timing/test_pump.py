"""The pump alone, in this process: addresses, TLS, what goes wrong before anything is sent, memory."""

import errno
import gc
import socket
import ssl
import time
import weakref

import pytest

from benchmarks.servers.process import FakeServer
from benchmarks.servers.tls import TlsFront
from kvlab.taxonomy import ErrorType
from kvlab.timing.pump import Exchange, Pump
from kvlab.timing.request import Target, interpret

BODY = {"model": "fake", "messages": [{"role": "user", "content": "one two three"}], "stream": True,
        "stream_options": {"include_usage": True}, "max_tokens": 3}  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with FakeServer(base_ms=1, itl_ms=0) as found:
        yield found


class Key:
    """What an exchange is known by, and goes with it."""


class Sender:
    """A pump, and what has come of what was sent."""

    def __init__(self, url, timeout_s=10.0):
        self.target = Target(url, timeout_s=timeout_s)
        self.done = []
        self.pump = Pump(self.target, self.done.append)

    def send(self, key):
        request = self.target.encode("/chat/completions", BODY, {"X-Request-Id": "any"})
        self.pump.send(Exchange(key, request, 0))

    def poll(self, until, within_s=20.0):
        limit = time.monotonic() + within_s
        while not until():
            assert time.monotonic() < limit, "it never came"
            self.pump.poll(0.05)

    def all(self, count):
        for key in range(count):
            self.send(key)
        self.poll(lambda: len(self.done) == count)
        return self.done


@pytest.fixture
def sender():
    made = []

    def make(*arguments, **options):
        made.append(Sender(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.pump.close()


def refusing_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def two_addresses(monkeypatch, first, second):
    """Resolve any name to two ports of this machine, as ``localhost`` has two addresses."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (first, second)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_a_name_with_two_addresses_is_reached_at_the_one_that_listens(server, sender, monkeypatch):
    two_addresses(monkeypatch, refusing_port(), server.port)
    one = sender(f"http://localhost:{server.port}/v1")
    assert one.pump.open_ahead(4) == 4
    assert all(exchange.failure is None for exchange in one.all(4))


def test_a_server_that_comes_later_at_its_second_address_is_found(server, sender, monkeypatch):
    port = refusing_port()
    two_addresses(monkeypatch, refusing_port(), port)
    one = sender(f"http://localhost:{port}/v1")
    assert one.pump.open_ahead(2) == 0
    with FakeServer(base_ms=1, itl_ms=0).at(port):
        for key in range(2):  # each try that fails leads to the other address
            one.send(key)
            one.poll(lambda: one.pump.in_flight == 0)
    assert one.done[-1].failure is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_links_opened_ahead_over_tls_carry_the_requests(server, sender, tmp_path, monkeypatch, version):
    """TLS 1.3's session tickets make an idle link readable; it is open all the same."""
    with TlsFront(server.port, tmp_path, version) as front:
        monkeypatch.setenv("SSL_CERT_FILE", str(front.roots))
        one = sender(f"https://127.0.0.1:{front.port}/v1")
        assert one.pump.open_ahead(8) == 8
        for _ in range(5):
            one.pump.poll(0.02)
        for turn in range(3):
            assert all(exchange.failure is None for exchange in one.all(8)), turn
            one.done.clear()
        assert front.connections == 8
        assert one.pump.connections_opened == 8


def test_a_link_that_the_server_closes_while_idle_is_not_used(sender):
    with FakeServer(base_ms=1, itl_ms=0) as gone:
        port = gone.port
        one = sender(gone.base_url)
        assert one.pump.open_ahead(2) == 2
    with FakeServer(base_ms=1, itl_ms=0).at(port):
        one.pump.poll(0.05)
        assert all(exchange.failure is None for exchange in one.all(2))
    assert one.pump.connections_opened == 4


def test_a_certificate_that_nobody_vouches_for_is_the_named_cause(server, sender, tmp_path):
    with TlsFront(server.port, tmp_path) as front:
        (exchange,) = sender(f"https://127.0.0.1:{front.port}/v1").all(1)
    assert exchange.sent_ns is None
    assert isinstance(exchange.cause, ssl.SSLCertVerificationError)
    assert "certificate" in exchange.failure.message


def test_without_file_descriptors_there_is_a_cause_and_no_crash(server, sender, monkeypatch):
    one = sender(server.base_url)

    def none_left(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", none_left)
        (exchange,) = one.all(1)
    assert exchange.cause.errno == errno.EMFILE
    assert exchange.failure.error_type is ErrorType.ENGINE_ERROR
    assert "Too many open files" in exchange.failure.message
    one.done.clear()
    assert one.all(1)[0].failure is None


def test_what_is_over_is_not_held_behind_a_stalled_request(sender):
    with FakeServer(base_ms=1, itl_ms=0, faults={"1": "stall_before"}) as stalling:
        one = sender(stalling.base_url, timeout_s=30.0)
        one.send("stalled")
        one.pump.poll(0.1)
        watched = []
        for _ in range(20):
            one.send(key := Key())
            one.poll(lambda: bool(one.done))
            one.done.clear()
            watched.append(weakref.ref(key))
        del key
        gc.collect()
        assert [ref() for ref in watched] == [None] * 20
        assert one.pump.in_flight == 1


def test_a_request_that_takes_too_long_ends_and_the_next_ones_do_not(sender):
    with FakeServer(base_ms=1, itl_ms=0, faults={"1": "stall_mid"}) as stalling:
        one = sender(stalling.base_url, timeout_s=0.3)
        done = {exchange.key: exchange for exchange in one.all(4)}
    kinds = [done[key].failure and done[key].failure.error_type for key in range(4)]
    assert kinds.count(ErrorType.TIMEOUT) == 1
    assert kinds.count(None) == 3


@pytest.mark.parametrize("fault", [None, "disconnect_mid", "stall_before", "status_500"])
def test_many_at_once_with_the_servers_own_stamps(sender, fault):
    with FakeServer(base_ms=20, itl_ms=5, faults={"3": fault} if fault else {}) as fake:
        one = sender(fake.base_url, timeout_s=1.5)
        for number in range(8):
            request = one.target.encode("/chat/completions", BODY, {"X-Request-Id": f"c{number}"})
            one.pump.send(Exchange(f"c{number}", request, 0))
        one.poll(lambda: len(one.done) == 8)
        truth = {record["request_id"]: record for record in fake.truth()}
    measured = {
        exchange.key: interpret(one.target, exchange.reader, exchange.transfer) for exchange in one.done
    }
    assert [m.failure is None for m in measured.values()].count(False) == (1 if fault else 0)
    for key, found in measured.items():
        if found.failure is None and not found.stalled:  # this process may be held up by others
            assert found.stamps.sent_ns < truth[key]["received_ns"]
            assert truth[key]["first_token_emit_ns"] < found.stamps.first_token_ns
