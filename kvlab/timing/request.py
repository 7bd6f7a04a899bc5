"""One streamed request: what goes out, and what is made of what came back.

A request is built before the clock starts, and its response is read only after the clock has
stopped. How the bytes travel is in `kvlab.timing.client` (one at a time) and
`kvlab.timing.connection` (many at once).
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import SplitResult, urlsplit

from kvlab.escape import header
from kvlab.redact import Redactor
from kvlab.taxonomy import ErrorType, from_http_status
from kvlab.timing.response import ResponseReader
from kvlab.timing.sse import events
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation, parse, read_stream

#: How much of a server's own words is kept with a failure, and how much is searched for secrets before that.
MAX_MESSAGE, _MOST_OF_A_MESSAGE = 500, 100_000


@dataclass(frozen=True)
class Target:
    """Where requests go. Holds secrets in ``headers``: never stored, never printed.

    Attributes:
        base_url: Ends in ``/v1``.
        headers: Sent with every request.
        timeout_s: The longest that one request may take, from sent to done.
        field_path: Dotted path of the server's own cache evidence, if it has one.
        kept_path: Dotted path of what it says its KV cache has kept of the prompt, if it says so.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 300.0
    field_path: str | None = None
    kept_path: str | None = None

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
        head = "".join(f"{name}: {header(value)}\r\n" for name, value in fields.items())
        return f"POST {header(self.url.path)}{path} HTTP/1.1\r\n{head}\r\n".encode("ascii") + payload


@dataclass(frozen=True)
class Failure:
    """Why an attempt has no usable answer.

    Attributes:
        retry_after_s: How long the server asks to wait before the next attempt (``Retry-After``).
    """

    error_type: ErrorType
    message: str
    http_status: int | None = None
    retry_after_s: float | None = None

    @property
    def is_outage(self) -> bool:
        """Whether the server is away or busy, rather than unable to answer this request."""
        if self.error_type is ErrorType.RATE_LIMITED:
            return True
        return self.error_type is ErrorType.ENGINE_ERROR and self.http_status in (None, 502, 503, 504)


@dataclass(frozen=True)
class Measurement:
    """One attempt: stamps always, and either an answer or a failure.

    Attributes:
        usage: The server's usage object, which it also sends with an answer that is of no use.
    """

    stamps: Stamps
    generation: Generation | None = None
    failure: Failure | None = None
    http_status: int | None = None
    usage: Mapping[str, Any] | None = None

    def redacted(self, redact: Redactor) -> "Measurement":
        """Return it without secrets, and its message cut: servers echo keys, which must not reach a database.

        In this order: a key that is cut first leaves a piece that is no key any more.
        """
        failure, generation = self.failure, self.generation
        if failure is not None:
            failure = replace(failure, message=redact(failure.message)[:MAX_MESSAGE])
        if generation is not None:
            generation = replace(
                generation,
                text=redact(generation.text),
                reasoning=redact(generation.reasoning),
                usage=redact.value(generation.usage),
                finish_reason=redact.value(generation.finish_reason),
                field_value=redact.value(generation.field_value),
                kept_value=redact.value(generation.kept_value),
                model=redact.value(generation.model),
            )
        return replace(self, failure=failure, generation=generation, usage=redact.value(self.usage))


def interpret(target: Target, sent_ns: int, reader: ResponseReader, failure: Failure | None) -> Measurement:
    """Make a measurement of what has arrived, whole or not.

    Args:
        target: Says where the server's own cache evidence is.
        sent_ns: Stamp taken just before the first byte went out.
        reader: What has arrived.
        failure: What the transport knows to have gone wrong.
    """
    if reader.status is not None and reader.status != 200:
        message = _error_message(reader.body())
        failure = failure or Failure(from_http_status(reader.status), message, reader.status)
        return Measurement(_stamps(sent_ns, reader, Generation()), None, failure, reader.status)
    generation = read_stream(events(reader.pieces), target.field_path, target.kept_path)
    stamps = _stamps(sent_ns, reader, generation)
    failure = failure or _judge(generation, reader.status)
    return Measurement(stamps, None if failure else generation, failure, reader.status, generation.usage)


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
    with contextlib.suppress(ValueError, RecursionError):
        content = parse(text)
        error = content.get("error", content) if isinstance(content, dict) else content
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    return text[:_MOST_OF_A_MESSAGE] or "an empty answer"
