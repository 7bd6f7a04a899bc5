"""Servers that close kept connections unannounced, through both transports; and a client that stands still."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from benchmarks.servers.catalogue import CLOSE, GOOD, RESET, Fault, FaultServer
from kvlab.taxonomy import ErrorType
from kvlab.timing.client import Client
from kvlab.timing.pump import Exchange, Pump
from kvlab.timing.request import Target, interpret

BODY = {"model": "m", "messages": [], "stream": True}
PATH = "/v1/chat/completions"
FAULTS = {
    "closes": Fault("closes", "ok", (*GOOD, CLOSE)),  # as llama.cpp's server does after each stream
    "closes_soon": Fault("closes_soon", "ok", (*GOOD, 0.0005, CLOSE)),
    "resets": Fault("resets", "ok", (*GOOD, 0.0005, RESET)),
    "good": Fault("good", "ok", GOOD),
    "dies": Fault("dies", "ENGINE_ERROR", (CLOSE,)),
    "dies_later": Fault("dies_later", "ENGINE_ERROR", (1.2, CLOSE)),
}


@pytest.fixture(scope="module")
def server():
    with FaultServer(FAULTS) as found:
        yield found


def one_by_one(server, names):
    with Client(Target(server.url, timeout_s=10)) as client:
        return [client.measure(f"/{name}{PATH}", BODY, "x") for name in names]


def pumped(server, names):
    """The same through the pump, one after the other, so that connections are kept."""
    target, found = Target(server.url, timeout_s=10), []
    pump = Pump(target, lambda exchange: found.append(interpret(target, exchange.reader, exchange.transfer)))
    for name in names:
        pump.send(Exchange(name, target.encode(f"/{name}{PATH}", BODY, {}), 0))
        limit = time.monotonic() + 20
        while pump.in_flight and time.monotonic() < limit:
            pump.poll(0.05)
    pump.close()
    return found


WAYS = pytest.mark.parametrize("way", [one_by_one, pumped])


@WAYS
@pytest.mark.parametrize("name", ["closes", "closes_soon", "resets"])
def test_a_connection_that_the_server_closed_after_an_answer_costs_no_request(server, way, name):
    found = way(server, [name] * 25)
    assert [m.failure for m in found] == [None] * 25
    assert all(m.reconnects in (0, 1) for m in found)
    assert all(m.stamps.ttft_ms > 0 for m in found)


@WAYS
def test_a_request_that_is_dropped_on_a_kept_connection_is_sent_anew_once_and_counted(server, way):
    before = len(server.served)
    good, dropped = way(server, ["good", "dies"])
    assert server.served[before:] == ["good", "dies", "dies"]
    assert (good.failure, good.reconnects) == (None, 0)
    assert (dropped.failure.error_type, dropped.reconnects) == (ErrorType.ENGINE_ERROR, 1)
    assert "closed the connection without an answer" in dropped.failure.message


@WAYS
def test_on_a_new_connection_it_is_the_server_that_failed(server, way):
    before = len(server.served)
    (found,) = way(server, ["dies"])
    assert (found.failure.error_type, found.reconnects) == (ErrorType.ENGINE_ERROR, 0)
    assert server.served[before:] == ["dies"]


@WAYS
def test_who_hangs_up_late_has_read_the_request(server, way):
    before = len(server.served)
    _, found = way(server, ["good", "dies_later"])
    assert (found.failure.error_type, found.reconnects) == (ErrorType.ENGINE_ERROR, 0)
    assert server.served[before:] == ["good", "dies_later"]


SLOW = {"slow": Fault("slow", "ok", (0.6, *GOOD)), "good": FAULTS["good"]}
ASK = """
import sys
from tests.timing.test_stale import one_by_one, pumped
class Server: url = sys.argv[2]
print("ready", flush=True)
(found,) = {"one_by_one": one_by_one, "pumped": pumped}[sys.argv[1]](Server, ["slow"])
print(found.client_stall_ms, found.stamps.ttft_ms, found.failure is None, found.unusable is not None)
"""


@WAYS
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_a_client_that_was_stopped_knows_it(way):
    with FaultServer(SLOW) as server:
        command = [sys.executable, "-c", ASK, way.__name__, server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdout.readline() == "ready\n"
            limit = time.monotonic() + 20
            while not server.served and time.monotonic() < limit:
                time.sleep(0.005)
            os.kill(client.pid, signal.SIGSTOP)
            threading.Event().wait(1.0)
            os.kill(client.pid, signal.SIGCONT)
            stall_ms, ttft_ms, answered, unusable = client.communicate(timeout=20)[0].split()
    assert 800 < float(stall_ms) < 5000
    assert (ttft_ms, answered, unusable) == ("None", "True", "True")
