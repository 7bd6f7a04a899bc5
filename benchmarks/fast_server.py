"""A server that answers faster than its clients ask, and knows when it emitted what.

    python -m benchmarks.fast_server --base-ms 4 --itl-ms 0.4

The fake server of the tests imitates an engine, and so is busy itself at a thousand requests a second. This one
knows a single answer: 16 chunks, a write each, precomputed, from one loop on plain sockets. A token of a
prompt is four bytes of its messages, and a prompt, and what stands before its last user message, is
cached once seen. It
prints {"port": N} and ends with its standard input. GET /_truth gives, in the order of their
arrival, [request id, request read, first token written] (perf_counter_ns).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import heapq
import json
import os
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.servers.process import FakeServer

TOKENS = 16
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(choices: list[Any], **more: Any) -> bytes:
    base = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "fake",
    }
    return (
        b"data: " + json.dumps({**base, "choices": choices, **more}, separators=(",", ":")).encode() + b"\n\n"
    )


def _token(number: int) -> bytes:
    finish = "length" if number == TOKENS - 1 else None
    delta: dict[str, Any] = {"content": f" word{number}"} | ({"role": "assistant"} if number == 0 else {})
    return _event(
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}]
    )


BLOCK = 16
_USAGE = {
    "prompt_tokens": 111, "completion_tokens": TOKENS, "total_tokens": 222, "prompt_tokens_details": {"cached_tokens": 333},
}  # fmt: skip
_USAGE_EVENT = _event([], usage=_USAGE).replace(b"111", b"%d").replace(b"222", b"%d").replace(b"333", b"%d")
WRITES = [_chunk(_token(number)) for number in range(TOKENS)]
_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def _last_write(prompt: int, cached: int) -> bytes:
    """All that ends a stream."""
    return _chunk(_USAGE_EVENT % (prompt, prompt + TOKENS, cached)) + _END


class Server:
    """One loop over all connections and all that is due."""

    def __init__(self, base_ms: float, itl_ms: float) -> None:
        self.base_ns, self.itl_ns = int(base_ms * 1e6), int(itl_ms * 1e6)
        self.truth: list[list[Any]] = []
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.listener.setblocking(False)
        self.epoll = select.epoll()
        self.epoll.register(self.listener, select.EPOLLIN)
        self.epoll.register(0, select.EPOLLIN)
        self.clients: dict[int, tuple[socket.socket, bytearray]] = {}
        self.due: list[tuple[int, int, int, socket.socket, list[Any], bytes]] = []
        self.seen: set[int] = set()

    def run(self) -> None:
        """Serve until standard input ends."""
        own = self.listener.fileno()
        while True:
            wait = None
            if self.due:
                wait = max(0.0, (self.due[0][0] - time.perf_counter_ns()) / 1e9)
            select.select([self.epoll.fileno()], [], [], wait)
            for descriptor, _ in self.epoll.poll(0):
                if descriptor == own:
                    self._accept()
                elif descriptor == 0:
                    if not os.read(0, 1024):
                        return
                else:
                    self._read(descriptor)
                self._emit()
            self._emit()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                client, _ = self.listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                client.setblocking(False)
                self.clients[client.fileno()] = (client, bytearray())
                self.epoll.register(client, select.EPOLLIN)

    def _read(self, descriptor: int) -> None:
        client, buffer = self.clients[descriptor]
        try:
            data = client.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.epoll.unregister(client)
            client.close()
            del self.clients[descriptor]
            return
        received_ns = time.perf_counter_ns()
        buffer += data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(buffer[:end]).lower()
            length = int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0] or 0)
            if len(buffer) < end + 4 + length:
                return
            body = bytes(buffer[end + 4 : end + 4 + length])
            del buffer[: end + 4 + length]
            self._answer(client, head, body, received_ns)

    def _last(self, body: bytes) -> bytes:
        start = body.find(b'"messages"')
        whole = body[start : body.rfind(b"]")]
        tokens, cached = len(whole) // 4, 0
        prefix = whole[: whole.rfind(b'"user"')]
        if hash(whole) in self.seen:
            cached = (tokens - 1) // BLOCK * BLOCK
        elif hash(prefix) in self.seen:
            cached = len(prefix) // 4 // BLOCK * BLOCK
        self.seen |= {hash(whole), hash(prefix)}
        return _last_write(tokens, cached)

    def _answer(self, client: socket.socket, head: bytes, body: bytes, received_ns: int) -> None:
        if head.startswith(b"post /v1/chat"):
            name = head.partition(b"\r\nx-request-id:")[2].split(b"\r\n", 1)[0].strip().decode()
            record = [name, received_ns, None]
            self.truth.append(record)
            heapq.heappush(
                self.due, (received_ns + self.base_ns, len(self.truth), 0, client, record, self._last(body))
            )
            return
        path = head.split(b" ", 2)[1]
        if path == b"/_truth":
            body = json.dumps(self.truth).encode()
            self.truth.clear()
        elif path == b"/tokenize":
            raw = json.dumps({"messages": json.loads(body).get("messages", [])})[1:-2].encode()
            body = json.dumps(
                {"tokens": [int.from_bytes(raw[i : i + 4]) for i in range(0, len(raw) - 3, 4)]}
            ).encode()
        elif path.endswith(b"/models"):
            entry = {"id": "fake", "object": "model", "created": 1, "owned_by": "fake", "max_model_len": 8192}
            body = json.dumps({"object": "list", "data": [entry]}).encode()
        else:
            body = b"{}"
        found = b"404 Not Found" if path in (b"/metrics", b"/v1/batches?limit=1") else b"200 OK"
        client.setblocking(True)
        client.sendall(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (found, len(body), body)
        )
        client.setblocking(False)

    def _emit(self) -> None:
        """Write what is due; an answer without gaps goes out in one go, a write a token."""
        while self.due and self.due[0][0] <= (now_ns := time.perf_counter_ns()):
            due_ns, order, number, client, record, last = heapq.heappop(self.due)
            try:
                if number == 0:
                    record[2] = now_ns
                    client.send(_HEAD + WRITES[0])
                else:
                    client.send(WRITES[number])
                if self.itl_ns == 0:
                    for write in WRITES[number + 1 :]:
                        client.send(write)
                    client.send(last)
                    continue
            except OSError:
                continue
            if number == TOKENS - 1:
                client.send(last)
            else:
                heapq.heappush(self.due, (due_ns + self.itl_ns, order, number + 1, client, record, last))


class FastServer(FakeServer):
    """The server in a process of its own, as a context manager."""

    def __init__(self, base_ms: float = 0.0, itl_ms: float = 0.0) -> None:
        super().__init__()
        self._ms = (str(base_ms), str(itl_ms))

    def _command(self) -> list[str]:
        return [
            sys.executable,
            "-m",
            "benchmarks.fast_server",
            "--base-ms",
            self._ms[0],
            "--itl-ms",
            self._ms[1],
        ]

    def truth(self) -> list[Any]:
        """Return and forget what was emitted: request id, request read, first token written."""
        return [tuple(record) for record in self._call("GET", "/_truth") if record[2] is not None]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-ms", type=float, default=0.0)
    parser.add_argument("--itl-ms", type=float, default=0.0)
    options = parser.parse_args()
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1000")
    gc.disable()
    server = Server(options.base_ms, options.itl_ms)
    print(json.dumps({"port": server.listener.getsockname()[1]}), flush=True)
    server.run()


if __name__ == "__main__":
    main()
