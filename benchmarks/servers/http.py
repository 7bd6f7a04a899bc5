"""Just enough HTTP/1.1 on asyncio: keep-alive, request bodies, chunked responses, one request at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import urlsplit

LAST_CHUNK = b"0\r\n\r\n"


class Request(NamedTuple):
    """A request whose body has arrived in full at `received_ns` (perf_counter_ns)."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    received_ns: int

    def json(self) -> Any:
        """The parsed body; raises ValueError."""
        return json.loads(self.body)


Handler = Callable[["Connection", Request], None]


def frame(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """One client connection; a handler answers with `respond`, or `start_stream`, writes and `finish`."""

    def __init__(self, handler: Handler, connections: set[Connection], server_name: str) -> None:
        self._handler = handler
        self._connections = connections
        self._server = f"server: {server_name}\r\n" if server_name else ""
        self._buffer = bytearray()
        self._busy = False
        self._arrived_ns = 0
        self._keep_alive = True
        self.on_lost: Callable[[], None] | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        if data:  # without any, a request that had arrived before is looked at again
            self._arrived_ns = time.perf_counter_ns()
        self._buffer += data
        if not self._busy:
            self._next_request()

    def respond(
        self,
        status: int,
        body: bytes | dict[str, Any] | list[Any],
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> None:
        """Answers in one write; what is not bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else to_json(body)
        head = {"content-length": str(len(raw)), "content-type": content_type, **(headers or {})}
        self.transport.write(self._head(status, head) + raw)
        self.finish()

    def start_stream(self) -> None:
        """Sends the head of an event stream."""
        head = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}
        self.transport.write(self._head(200, head))

    def finish(self) -> None:
        """The response is complete: takes the next request, or closes as the client wished."""
        self.on_lost = None
        self._busy = False
        if not self._keep_alive:
            self.transport.close()
        elif self._buffer:
            asyncio.get_running_loop().call_soon(self.data_received, b"")

    def abort(self) -> None:
        """Drops the connection in the middle of whatever it was doing."""
        self.on_lost = None
        self.transport.abort()

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        close = "" if self._keep_alive else "connection: close\r\n"
        return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{self._server}{lines}{close}\r\n".encode()

    def _next_request(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        start_line, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body_end = self._body_end(end + 4, headers)
        if body_end is None:
            return
        received_ns = self._arrived_ns
        body = bytes(self._buffer[end + 4 : body_end])
        del self._buffer[:body_end]
        if "transfer-encoding" in headers:
            body = _unchunk(body)
        method, target, version = start_line.split(" ")
        self._busy = True
        self._keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        self._handler(self, Request(method, urlsplit(target).path, headers, body, received_ns))

    def _body_end(self, start: int, headers: dict[str, str]) -> int | None:
        if "transfer-encoding" in headers:
            end = self._buffer.find(b"\r\n" + LAST_CHUNK, start - 2)
            return None if end < 0 else end + 2 + len(LAST_CHUNK)
        end = start + int(headers.get("content-length", "0"))
        if len(self._buffer) >= end:
            return end
        if len(self._buffer) == start and headers.get("expect") == "100-continue":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        return None


def _unchunk(raw: bytes) -> bytes:
    parts = []
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        length = int(size.split(b";")[0], 16)
        parts.append(raw[:length])
        raw = raw[length + 2 :]
    return b"".join(parts)


def to_json(value: object) -> bytes:
    """Compact UTF-8 JSON, as the real servers send it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def serve(
    factory: Callable[[], Connection], host: str, port: int, *, announce: Callable[[int], None]
) -> None:
    """Serves until cancelled; `announce` is told the port."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(factory, host, port, backlog=1024)
    announce(server.sockets[0].getsockname()[1])
    with contextlib.suppress(asyncio.CancelledError):
        await server.serve_forever()
