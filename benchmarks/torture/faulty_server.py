"""A fake server whose every measured request is struck by a fault of the catalogue, one after the other.

Pages and probes are the fake server's own, passed through; a request whose id names a trial gets the next fault.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from typing import Self

from benchmarks.servers.catalogue import FAULTS, FaultServer

#: What the requests of a run are called: experiment id, trial, arm or item.
_MEASURED = re.compile(rb"x-request-id: *(\S+/\S+/\S+)\r", re.IGNORECASE)


class FaultyServer(FaultServer):
    """A context manager in front of another server.

    Attributes:
        struck: Request id → name of the fault.
    """

    def __init__(self, behind: int, names: list[str]) -> None:
        super().__init__(FAULTS)
        self._behind, self._names = behind, iter(names)
        self._choosing = threading.Lock()
        self.struck: dict[str, str] = {}

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    @property
    def base_url(self) -> str:
        """What OpenAI clients call the base URL."""
        return f"{self.url}/v1"

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(30.0)
        with (
            contextlib.suppress(OSError),
            client,
            socket.create_connection(("127.0.0.1", self._behind)) as behind,
        ):
            buffer = b""
            while not self._over.is_set():
                request, buffer = _request(client, buffer)
                if request is None:
                    return
                name = self._strike(request)
                if name is None:
                    behind.sendall(request)
                    client.sendall(_answer(behind))
                elif not self._play(client, FAULTS[name]):
                    return

    def _strike(self, request: bytes) -> str | None:
        """Return the fault for a request; ``None``: it goes to the server behind."""
        head = request.partition(b"\r\n\r\n")[0] + b"\r"
        found = _MEASURED.search(head)
        if not head.startswith(b"POST ") or found is None or b"/warmup" in found[1]:
            return None
        request_id = found[1].decode()
        with self._choosing:
            # An answer whose connection was closed unannounced is asked for again, under its own name.
            if request_id not in self.struck:
                self.struck[request_id] = next(self._names, "good")
            return self.struck[request_id]


def _request(client: socket.socket, buffer: bytes) -> tuple[bytes | None, bytes]:
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        data = client.recv(65_536)
        if not data:
            return None, b""
        buffer += data
    found = re.search(rb"content-length: (\d+)", buffer[:end].lower())
    size = end + 4 + (int(found[1]) if found else 0)
    while len(buffer) < size:
        data = client.recv(65_536)
        if not data:
            return None, b""
        buffer += data
    return buffer[:size], buffer[size:]


def _answer(behind: socket.socket) -> bytes:
    """Read one whole answer of the fake server, which is of a known form."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += behind.recv(65_536)
    head, _, body = data.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        while not body.endswith(b"0\r\n\r\n"):
            body += behind.recv(65_536)
    else:
        found = re.search(rb"content-length: (\d+)", head.lower())
        while found and len(body) < int(found[1]):
            body += behind.recv(65_536)
    return head + b"\r\n\r\n" + body
