"""Which process serves a URL, and what of its memory can be seen."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from kvlab.vram import choose
from kvlab.vram.samplers import ProcessTree, Unavailable


@pytest.fixture
def listening():
    """A port that this process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


#: The machine's addresses, one a network.
OWN = [
    each.address
    for found in psutil.net_if_addrs().values()
    for each in found
    if each.family == socket.AF_INET
]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", *OWN])
def test_a_server_of_this_machine_is_found_by_its_port(listening, host):
    url = f"http://{host}:{listening}/v1"
    assert choose.server_pid(url) == os.getpid()
    sampler = choose.for_server(url)[0]
    assert isinstance(sampler, ProcessTree)
    assert sampler.read()


def test_the_embedded_servers_process_is_known():
    assert choose.server_pid("http://127.0.0.1:1/v1", 42) == 42


def test_a_server_elsewhere_is_unseen_whoever_listens_here(listening):
    url = f"http://example.org:{listening}/v1"
    assert choose.server_pid(url) is None
    (sampler,) = choose.for_server(url)
    assert "elsewhere" in sampler.reason


def test_a_process_that_cannot_be_seen_is_no_endpoint_elsewhere(monkeypatch):
    """In a container, or another user's: its port is open, its process hidden. A card still shows."""
    monkeypatch.setattr(choose, "listener_pid", lambda port: None)
    monkeypatch.setattr(choose, "device_count", lambda: 1)
    monkeypatch.setattr(choose, "NvmlDevice", lambda index: f"card {index}")
    hidden, card = choose.for_server("http://localhost/v1")
    assert isinstance(hidden, Unavailable)
    assert "cannot be seen (another user's, or in a container?)" in hidden.reason
    assert card == "card 0"


PROXY = """
import socket, sys, threading
onward = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""


def test_a_proxys_memory_is_not_the_servers(listening):
    with subprocess.Popen(
        [sys.executable, "-c", PROXY, str(listening)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as proxy:
        url = f"http://127.0.0.1:{int(proxy.stdout.readline())}/v1"
        pid, why = choose.server_process(url)
        assert pid is None
        assert f"connected to 127.0.0.1:{listening}" in why
        assert "memory is not the server's" in choose.for_server(url)[0].reason
        proxy.stdin.close()
