"""The measuring client: one streamed request, honestly timed.

It lives underneath the openai SDK: `make bench` shows what the SDK's own stream adds. A request is
built before the clock starts, sent on a connection that is already open, and parsed after the
clock has stopped. Retries belong to the caller, and each is a new attempt with its own row.
"""

import asyncio
import contextlib
import json
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from urllib.parse import SplitResult, urlsplit

from kvlab.taxonomy import ErrorType, from_http_status
from kvlab.timing.clock import now_ns
from kvlab.timing.connection import Connection
from kvlab.timing.sse import events
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation, read_stream
from kvlab.timing.wire import ResponseReader, WireError

T = TypeVar("T")


@dataclass(frozen=True)
class Target:
    """Where requests go. Holds secrets in ``headers``: never stored, never printed.

    Attributes:
        base_url: Ends in ``/v1``.
        headers: Sent with every request.
        timeout_s: The longest that one request may take, from sent to done.
        field_path: Dotted path of the server's own cache evidence, if it has one.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 300.0
    field_path: str | None = None

    @property
    def url(self) -> SplitResult:
        """The base URL in parts."""
        return urlsplit(self.base_url)

    def encode(self, path: str, body: Mapping[str, Any], extra: Mapping[str, str]) -> bytes:
        """Return the bytes of a POST to ``path`` under the base URL."""
        payload = json.dumps(body, ensure_ascii=False).encode()
        host = self.url.netloc.rpartition("@")[2]
        fields = {
            "Host": host,
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "User-Agent": "kvlab",
            **self.headers,
            **extra,
            "Content-Length": str(len(payload)),
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"POST {self.url.path}{path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + payload


@dataclass(frozen=True)
class Failure:
    """Why an attempt has no usable answer."""

    error_type: ErrorType
    message: str
    http_status: int | None = None


@dataclass(frozen=True)
class Measurement:
    """One attempt: stamps always, and either an answer or a failure."""

    stamps: Stamps
    generation: Generation | None = None
    failure: Failure | None = None
    http_status: int | None = None


async def measure(target: Target, connection: Connection, request: bytes) -> Measurement:
    """Send one encoded request on an open connection and measure its streamed answer.

    Never raises for what a server or network can do: that is a `Failure` with partial stamps.
    """
    reader = ResponseReader()
    connection.sent_ns = now_ns()  # for the case that the request never gets out
    failure = None
    try:
        async with asyncio.timeout(target.timeout_s):
            await connection.exchange(request, reader)
    except TimeoutError:
        message = f"no complete answer within {target.timeout_s:g} s"
        failure = Failure(ErrorType.TIMEOUT, message, reader.status)
    except (OSError, WireError) as error:
        failure = Failure(ErrorType.ENGINE_ERROR, str(error), reader.status)
    return _interpret(target, connection.sent_ns, reader, failure)


def _interpret(target: Target, sent_ns: int, reader: ResponseReader, failure: Failure | None) -> Measurement:
    if reader.status is not None and reader.status != 200:
        message = _error_message(reader.body())
        failure = failure or Failure(from_http_status(reader.status), message, reader.status)
        return Measurement(_stamps(sent_ns, reader, Generation()), None, failure, reader.status)
    generation = read_stream(events(reader.pieces), target.field_path)
    stamps = _stamps(sent_ns, reader, generation)
    failure = failure or _judge(generation, reader.status)
    return Measurement(stamps, None if failure else generation, failure, reader.status)


def _judge(generation: Generation, status: int | None) -> Failure | None:
    if generation.error:
        return Failure(ErrorType.ENGINE_ERROR, generation.error, status)
    if not generation.ended:
        return Failure(ErrorType.ENGINE_ERROR, "the stream stopped without a finish reason", status)
    if not generation.token_ns:
        return Failure(ErrorType.EMPTY_OUTPUT, "the stream carried no token", status)
    return None


def _stamps(sent_ns: int, reader: ResponseReader, generation: Generation) -> Stamps:
    tokens = generation.token_ns
    return Stamps(
        sent_ns=sent_ns,
        first_byte_ns=reader.first_byte_ns,
        first_token_ns=tokens[0] if tokens else None,
        first_content_ns=generation.first_content_ns,
        last_token_ns=tokens[-1] if tokens else None,
        done_ns=reader.done_ns,
        token_ns=tuple(tokens),
    )


def _error_message(body: bytes) -> str:
    text = body.decode("utf-8", errors="replace").strip()
    with contextlib.suppress(ValueError):
        content = json.loads(text)
        error = content.get("error", content) if isinstance(content, dict) else content
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    return text[:500] or "an empty answer"


class Client:
    """A blocking front for one connection, for measurements at concurrency 1.

    Works in a notebook too: the event loop runs in a thread of its own, which does nothing else.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._connection: Connection | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kvlab-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, path: str, body: Mapping[str, Any], request_id: str) -> Measurement:
        """POST a streaming request and measure it; the connection is opened before the clock starts."""
        request = self.target.encode(path, body, {"X-Request-Id": request_id})
        try:
            self._run(self._connect())
        except OSError as error:
            failure = Failure(ErrorType.ENGINE_ERROR, f"no connection: {error}")
            return Measurement(Stamps(sent_ns=now_ns()), None, failure)
        assert self._connection is not None  # noqa: S101 - _connect's promise, for the type checker
        return self._run(measure(self.target, self._connection, request))

    def close(self) -> None:
        """Close the connection and stop the loop."""
        if self._loop.is_closed():
            return
        if self._connection is not None:
            self._loop.call_soon_threadsafe(self._connection.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()

    async def _connect(self) -> None:
        # Servers drop idle connections (uvicorn after 5 s); one pass of the loop lets that news in.
        await asyncio.sleep(0)
        if self._connection is None or not self._connection.usable:
            async with asyncio.timeout(min(30.0, self.target.timeout_s)):
                self._connection = await Connection.open(self.target.url)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
