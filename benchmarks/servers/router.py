"""A router in front of replicas: in turns, or sticky by the start of the prompt. Streams are passed on as they come."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import zlib
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

POLICIES = ("round_robin", "sticky")
#: Characters, or token ids, of a prompt that decide where it goes.
_START = 64


class Router:
    """A context manager; a thread a connection.

    Args:
        ports: Of the replicas on this machine.
        policy: ``round_robin``: each request goes to the next one. ``sticky``: prompts that begin alike go
            to one place, as routers that know of prefix caches do; pages go to the first replica.
    """

    def __init__(self, ports: Sequence[int], policy: str = "round_robin") -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
        turns, self.sent = itertools.cycle(ports), [0] * len(ports)
        router = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._pass_on(None, next(turns) if policy == "round_robin" else ports[0])

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                port = next(turns) if policy == "round_robin" else ports[_place(body, len(ports))]
                router.sent[list(ports).index(port)] += 1
                self._pass_on(body, port)

            def _pass_on(self, body: bytes | None, port: int) -> None:
                replica = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
                with contextlib.closing(replica), contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    headers = {"Content-Type": "application/json", "Connection": "close"}
                    headers |= {k: v for k, v in self.headers.items() if k.lower() == "authorization"}
                    try:
                        replica.request(self.command, self.path, body, headers)
                        answer = replica.getresponse()
                    except OSError:
                        self.send_error(502)
                        return
                    self.send_response(answer.status)
                    self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    while data := answer.read1(65_536):
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
                    self.wfile.write(b"0\r\n\r\n")

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True

    @property
    def base_url(self) -> str:
        """What OpenAI clients call the base URL."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _place(body: bytes, places: int) -> int:
    """Which place a prompt goes to, by how it begins."""
    try:
        content = json.loads(body)
    except ValueError:
        return 0
    messages = content.get("messages") or [{"content": ""}]
    prompt = content.get("prompt", messages[0].get("content", ""))
    return zlib.crc32(json.dumps(prompt[:_START]).encode()) % places
