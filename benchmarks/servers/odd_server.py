"""A server that is told what to answer, page by page: for the odd things that real servers say.

It runs in a thread of the test. A page is a function of the request's body, or a fixed answer.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

#: Status, body (bytes as they are, anything else as JSON), headers.
Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]
Page = Reply | Callable[[dict[str, Any]], Reply]


def stream(*chunks: dict[str, Any]) -> Reply:
    """Server-sent events, the last of them [DONE]."""
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return 200, "".join([*lines, "data: [DONE]\n\n"]).encode(), {"Content-Type": "text/event-stream"}


def answer(
    prompt_tokens: int | None,
    cached: int | None = None,
    *,
    tokens: int = 1,
    said: int | None = None,
    model: str = "m",
    text: str | None = "a",
) -> Reply:
    """A streamed chat answer with its usage."""
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": tokens if said is None else said,
    }
    if cached is not None:
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
    delta = {} if text is None else {"content": text}
    events = [{"model": model, "choices": [{"index": 0, "delta": delta}]}] * tokens
    end = {"model": model, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    return stream(*events, end, {"model": model, "choices": [], "usage": usage})


class OddServer:
    """The server as a context manager.

    Attributes:
        pages: Path to answer; what is not there is a 404.
        bodies: What was POSTed, in order.
    """

    def __init__(self, chat: Page, **pages: Page) -> None:
        models = (200, {"data": [{"id": "m", "owned_by": "x"}]})
        self.pages: dict[str, Page] = {"/v1/models": models, "/v1/chat/completions": chat}
        self.pages |= {f"/{name.replace('__', '/')}": page for name, page in pages.items()}
        self.bodies: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def reply(self, path: str, body: dict[str, Any]) -> Reply:
        """What is answered at a path."""
        page = self.pages.get(path, (404, {"error": {"message": "not here"}}))
        return page(body) if callable(page) else page

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        odd = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send(odd.reply(self.path.partition("?")[0], {}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                odd.bodies.append(body)
                self._send(odd.reply(self.path, body))

            def _send(self, reply: Reply) -> None:
                status, content, *headers = reply
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in (headers[0] if headers else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


class Words:
    """A prefix cache over words for an `OddServer`: each chat word is a token, reuse comes in grains."""

    def __init__(self, grain: int, start: int = 4) -> None:
        self.grain, self.start = grain, start
        self.seen: list[list[str]] = []

    def tokens(self, body: dict[str, Any]) -> list[str]:
        """The template's start, then the words."""
        words = " ".join(message["content"] for message in body["messages"]).split()
        return [f"<{i}>" for i in range(self.start)] + words

    def read(self, body: dict[str, Any]) -> tuple[int, int]:
        """Prompt tokens and cached tokens of a chat, which is in the cache then."""
        tokens = self.tokens(body)
        known = max((_common(tokens, old) for old in self.seen), default=0)
        self.seen.append(tokens)
        return len(tokens), min(known, len(tokens) - 1) // self.grain * self.grain


def _common(first: list[str], second: list[str]) -> int:
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
