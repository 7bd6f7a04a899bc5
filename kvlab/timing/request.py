"""One streamed request: what goes out, and what is made of what came back.

A request is built before the clock starts, and its response is read only after the clock has
stopped. How the bytes travel is in `kvlab.timing.client` (one at a time) and `kvlab.timing.pump` (many
at once); what they mean is found out here, for both.
"""

import contextlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit

from kvlab.errors import InputError
from kvlab.redact import Redactor
from kvlab.taxonomy import ErrorType, from_http_status
from kvlab.timing.refusals import MOST_OF_A_MESSAGE, error_message
from kvlab.timing.response import MAX_BYTES, ResponseReader, retry_after_s
from kvlab.timing.stamps import STOOD_STILL, Stamps, came_together
from kvlab.timing.stream import (
    Generation,
    events,
    parse,
    read_document,
    read_stream,
    usage_contradiction,
)

#: How much of a server's own words is stored with a failure, secrets taken out first.
MAX_MESSAGE = 500
#: How long reading an answer may take: one that is whole, and one that has failed already, of which only
#: the stamps are wanted.
READ_S, READ_FAILED_S = 10.0, 1.0
#: A stall shorter than this, or than this share of the request, is within what times scatter by on a machine that
#: does other things too; it is noted all the same (`Measurement.notes`).
STALL_MS, STALL_SHARE = 100.0, 0.05
_PATH = "/%:@!$&'()*+,;=~"


@dataclass(frozen=True)
class Target:
    """Where requests go. Holds secrets in ``headers``: never stored, never printed.

    Attributes:
        base_url: Ends in ``/v1``.
        headers: Sent with every request.
        timeout_s: The longest that one request may take, from sent to done.
        field_path: Dotted path of the server's own cache evidence, if it has one.
        kept_path: Dotted path of what it says its KV cache has kept of the prompt, if it says so.
        max_bytes: The longest answer that is taken.
    """

    base_url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_s: float = 300.0
    field_path: str | None = None
    kept_path: str | None = None
    max_bytes: int = MAX_BYTES

    @property
    def url(self) -> SplitResult:
        """The base URL in parts."""
        return urlsplit(self.base_url)

    def encode(self, path: str, body: Mapping[str, Any], extra: Mapping[str, str]) -> bytes:
        """Return the bytes of a POST to ``path`` under the base URL.

        Raises:
            InputError: A header's value cannot be sent: a line end would begin a header of its own.
        """
        payload = json.dumps(body, ensure_ascii=False).encode("utf-8", errors="replace")
        host = self.url.netloc.rpartition("@")[2]
        fields = {
            "Host": host if host.isascii() else host.encode("idna").decode(),
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "Accept-Encoding": "identity",
            "User-Agent": "kvlab",
            **self.headers,
            **extra,
            "Content-Length": str(len(payload)),
        }
        head = "".join(f"{name}: {_sendable(name, value)}\r\n" for name, value in fields.items())
        where = quote(self.url.path + path, safe=_PATH)
        return f"POST {where} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + payload


def _sendable(name: str, value: str) -> str:
    """Return a header's value. It may be a secret, so a refusal does not show it."""
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        sound = False
    else:
        sound = not any(
            (ord(character) < 32 and character != "\t") or ord(character) == 127 for character in value
        )
    if not sound:
        raise InputError(
            f"header {name}", None, "has a line end or a character that no header can carry; correct it"
        )
    return value


@dataclass(frozen=True)
class Failure:
    """Why an attempt has no usable answer.

    Attributes:
        message: The server's own words, where it said any. Uncut, and with whatever secrets they hold,
            until `Measurement.redacted`.
        retry_after_s: How long the server asks to wait before the next attempt (``Retry-After``).
    """

    error_type: ErrorType
    message: str
    http_status: int | None = None
    retry_after_s: float | None = None

    @property
    def is_outage(self) -> bool:
        """Whether the server is away or busy, or this client was, rather than this request unanswerable."""
        if self.error_type in (ErrorType.RATE_LIMITED, ErrorType.CLIENT_STALLED):
            return True
        return self.error_type is ErrorType.ENGINE_ERROR and self.http_status in (None, 502, 503, 504)


@dataclass(frozen=True)
class Transfer:
    """What a transport knows of one request, beside the bytes.

    Attributes:
        sent_ns: Stamp taken just before the first byte went out, on the connection that was used at last.
        failure: What went wrong on the way.
        reconnects: How often it was sent anew since a kept connection turned out to be closed.
        client_stall_ms: How long this process did not run, or was suspended, while it was waiting.
    """

    sent_ns: int
    failure: Failure | None = None
    reconnects: int = 0
    client_stall_ms: float = 0.0


@dataclass(frozen=True)
class Measurement:
    """One attempt: stamps always, and either an answer or a failure.

    Attributes:
        usage: The server's usage object, which it also sends with an answer that is of no use.
        reconnects: See `Transfer`.
        client_stall_ms: See `Transfer`.
        stalled: Whether that is so long that the times are this client's, not the server's.
    """

    stamps: Stamps
    generation: Generation | None = None
    failure: Failure | None = None
    http_status: int | None = None
    usage: Mapping[str, Any] | None = None
    reconnects: int = 0
    client_stall_ms: float = 0.0
    stalled: bool = False

    @property
    def unusable(self) -> Failure | None:
        """Why this attempt must not count though it may have an answer: what failed, or a stall of this client."""
        if self.failure is not None or not self.stalled:
            return self.failure
        return Failure(
            ErrorType.CLIENT_STALLED, self.stamps.untimed or "this client stood still", self.http_status
        )

    @property
    def notes(self) -> list[tuple[str, float | None, str | None]]:
        """What else was seen of it: name with unit, number, words; `Database` stores them as observations."""
        found: list[tuple[str, float | None, str | None]] = []
        if self.reconnects:
            found.append(("reconnects", float(self.reconnects), None))
        if self.client_stall_ms:
            found.append(("client_stall_ms", self.client_stall_ms, None))
        if self.stamps.untimed is not None:
            found.append(("untimed", None, self.stamps.untimed))
        if self.generation is not None and (odd := usage_contradiction(self.generation)) is not None:
            found.append(("usage_contradiction", None, odd))
        return found

    def redacted(self, redact: Redactor) -> "Measurement":
        """Return it without secrets, and its message cut: servers echo keys, which must not reach a database.

        In this order: a key that is cut first leaves a piece that is no key any more.
        """
        failure, generation = self.failure, self.generation
        if failure is not None:
            failure = replace(failure, message=redact(failure.message)[:MAX_MESSAGE])
        if generation is not None:
            names = (
                "text",
                "reasoning",
                "finish_reason",
                "usage",
                "field_value",
                "kept_value",
                "model",
                "error",
            )
            generation = replace(
                generation, **{name: redact.value(getattr(generation, name)) for name in names}
            )
        return replace(self, failure=failure, generation=generation, usage=redact.value(self.usage))


def interpret(target: Target, reader: ResponseReader, transfer: Transfer) -> Measurement:
    """Make a measurement of what has arrived, whole or not."""
    failure, status = transfer.failure, reader.status
    if status is not None and status != 200:
        words = _error_message(reader)
        if failure is not None:
            failure = replace(failure, message=f"{failure.message}; it had begun with HTTP {status}: {words}")
        failure = failure or Failure(from_http_status(status), words, status, _retry_after_s(reader.headers))
        return _measurement(transfer, reader, Generation(), failure)
    generation = _read(target, reader, READ_S if failure is None else READ_FAILED_S)
    if failure is None:
        failure = _judge(generation, reader)
    elif generation.error is not None:
        failure = replace(failure, message=f"{failure.message}; before that: {generation.error}")
    return _measurement(transfer, reader, generation, failure)


def _read(target: Target, reader: ResponseReader, budget_s: float) -> Generation:
    complete = reader.done_ns is not None
    first = next((found for piece in reader.pieces if (found := piece.data.lstrip()[:1])), b"")
    if complete and (first in (b"{", b"[", b"<", b"") or "json" in _content_type(reader)):
        return read_document(reader.body(), target.field_path, target.kept_path)
    stream = events(reader.pieces, complete=complete)
    generation = read_stream(stream, target.field_path, target.kept_path, budget_s=budget_s)
    if (
        complete
        and not generation.ended
        and generation.error is None
        and b"data:" not in (body := reader.body())
    ):
        return read_document(body)
    return generation


def _content_type(reader: ResponseReader) -> str:
    return reader.headers.get("content-type", "").partition(";")[0].lower()


def _measurement(
    transfer: Transfer, reader: ResponseReader, generation: Generation, failure: Failure | None
) -> Measurement:
    tokens: tuple[int, ...] = tuple(generation.token_ns)
    end_ns = reader.done_ns or (tokens[-1] if tokens else transfer.sent_ns)
    whole_ms = (end_ns - transfer.sent_ns) / 1e6
    stalled = transfer.client_stall_ms >= max(STALL_MS, STALL_SHARE * whole_ms)
    untimed = came_together(transfer.sent_ns, tokens)
    if stalled:
        untimed = f"{STOOD_STILL} for {transfer.client_stall_ms:.0f} ms during the request"
    elif not generation.streamed and failure is None:
        untimed = "the server answered with one document, though a stream was asked for"
    if untimed:
        tokens = ()
    stamps = Stamps(
        sent_ns=transfer.sent_ns,
        first_byte_ns=reader.first_byte_ns,
        first_token_ns=tokens[0] if tokens else None,
        first_content_ns=None if untimed else generation.first_content_ns,
        last_token_ns=tokens[-1] if tokens else None,
        done_ns=reader.done_ns,  # late at most, which a rate over many requests bears
        token_ns=tokens,
        untimed=untimed,
        late=stalled,
    )
    return Measurement(
        stamps,
        None if failure else generation,
        failure,
        reader.status,
        generation.usage,
        transfer.reconnects,
        transfer.client_stall_ms,
        stalled,
    )


def _judge(generation: Generation, reader: ResponseReader) -> Failure | None:
    """Return what is wrong with a complete answer of status 200."""
    status = reader.status
    coding = reader.headers.get("content-encoding", "identity").lower()
    if coding not in ("identity", ""):
        words = f"the answer is compressed ({coding[:40]}), which was not asked for: its tokens have no times"
        return Failure(ErrorType.ENGINE_ERROR, words, status)
    if generation.error is not None:
        return Failure(generation.error_type, generation.error, status, _retry_after_s(reader.headers))
    if not generation.ended:
        return Failure(ErrorType.ENGINE_ERROR, "the stream stopped without a finish reason", status)
    if generation.given_up:
        words = f"the server gave the answer up: finish_reason {generation.finish_reason!r}"
        return Failure(ErrorType.ENGINE_ERROR, words, status)
    if not generation.token_ns and not generation.text and not generation.reasoning:
        return Failure(ErrorType.EMPTY_OUTPUT, "the stream carried no token", status)
    return None


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return what the server asks to wait, by its own clock where it gives one."""
    now: datetime | None = None
    with contextlib.suppress(ValueError, TypeError, IndexError, OverflowError):
        now = parsedate_to_datetime(headers.get("date", ""))
    return retry_after_s(headers.get("retry-after"), now if now is not None and now.tzinfo else None)


def _error_message(reader: ResponseReader) -> str:
    body = reader.body()
    if reader.headers.get("content-encoding", "").lower() in ("gzip", "deflate", "x-gzip"):
        with contextlib.suppress(zlib.error):  # no more of it than is kept: a few bytes can become gigabytes
            body = zlib.decompressobj(47).decompress(body, MOST_OF_A_MESSAGE)
    text = body.decode("utf-8", errors="replace").strip()
    with contextlib.suppress(ValueError, RecursionError):
        content = parse(text)
        text = error_message(content.get("error") or content if isinstance(content, dict) else content)
    return text[:MOST_OF_A_MESSAGE] or "an empty answer"
