"""Serves the catalogue: the first part of a request's path names the fault."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Self

from .fault import CLOSE, HANG, RESET, Endless, Fault

_LIMIT_S = 30.0  # no step outlives this, whatever the client does


class FaultServer:
    """A context manager; a thread a connection. POST ``/<fault>/…`` gives that fault."""

    def __init__(self, faults: Mapping[str, Fault]) -> None:
        self._faults = faults
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._over = threading.Event()
        self.port = int(self._listener.getsockname()[1])
        self.served: list[str] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._listener.close()

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(_LIMIT_S)
        with contextlib.suppress(OSError), client:
            buffer = b""
            while not self._over.is_set():
                while (end := buffer.find(b"\r\n\r\n")) < 0:
                    data = client.recv(65_536)
                    if not data:
                        return
                    buffer += data
                head = buffer[:end]
                found = re.search(rb"content-length: (\d+)", head.lower())
                size = end + 4 + (int(found[1]) if found else 0)
                while len(buffer) < size:
                    buffer += client.recv(65_536)
                buffer = buffer[size:]
                name = head.split(b" ")[1].split(b"/")[1].decode()
                self.served.append(name)
                if not self._play(client, self._faults[name]):
                    return

    def _play(self, client: socket.socket, fault: Fault) -> bool:
        """Do what the fault says. Returns whether the connection goes on."""
        for step in fault.steps:
            if isinstance(step, bytes):
                client.sendall(step)
            elif isinstance(step, float):
                time.sleep(step)
            elif isinstance(step, Endless):
                while not self._over.is_set():
                    client.sendall(step.data)
                    time.sleep(step.pause_s)
            elif step is HANG:
                self._until_gone(client)
                return False
            elif step is RESET:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            elif step is CLOSE:
                return False
        return True

    def _until_gone(self, client: socket.socket) -> None:
        client.settimeout(0.1)
        limit = time.monotonic() + _LIMIT_S
        while not self._over.is_set() and time.monotonic() < limit:
            with contextlib.suppress(TimeoutError):
                if not client.recv(1):
                    return
