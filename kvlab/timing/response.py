"""HTTP/1.1 responses, read without I/O: bytes with their stamps in, body pieces with stamps out.

Both transports read with this, and it parses with llhttp (Node's parser, through httptools): two parsers
would disagree about the odd answer, and then an answer would be good in one experiment and a failure in
another. Nothing here looks inside the body; what the bytes mean is worked out after the clock has stopped.

Everything that a server sends is finite: `MAX_HEAD_BYTES` without content (a header, interim responses, a
trailer, a chunk's extension), and ``max_bytes`` in all.
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httptools

MAX_HEAD_BYTES = 65_536
#: About 200,000 events of the usual size, or one answer of 64 MB.
MAX_BYTES = 64 * 2**20
_PER_PIECE_BYTES = (
    128  # what a piece takes in memory beside its bytes, so that many tiny ones are bounded, too
)
_CONTENT_FREE = frozenset((204, 304))
_KEPT = frozenset((
    b"content-type", b"content-encoding", b"content-length", b"transfer-encoding", b"retry-after", b"date",
))  # fmt: skip


class WireError(Exception):
    """The bytes are not a complete HTTP/1.1 response, or more than is taken."""


class Piece(NamedTuple):
    """Bytes of a body, and the moment at which the read that brought them returned."""

    t_ns: int
    data: bytes


class ResponseReader:
    """One response to one request. Can be pickled once it is over.

    Args:
        max_bytes: How much is taken in all; each piece counts a little more than its bytes.

    Attributes:
        status: The HTTP status; ``None`` until the header is in.
        headers: Those that are looked at, with lower-case names; of a repeated one, the last.
        pieces: The body, transfer coding removed, as it arrived: at most one piece a read.
        first_byte_ns: The stamp of the first read.
        done_ns: The stamp of the read that completed the response.
        keep_alive: Whether the connection can carry another request.
        size: What it holds, in bytes.
    """

    __slots__ = (
        "_bare", "_chunk_began", "_complete", "_parser", "_parts", "_until_close",
        "done_ns", "first_byte_ns", "headers", "keep_alive", "max_bytes", "pieces", "size", "status",
    )  # fmt: skip

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.max_bytes = max_bytes
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.pieces: list[Piece] = []
        self.first_byte_ns: int | None = None
        self.done_ns: int | None = None
        self.keep_alive = True
        self.size = 0
        self._parts: list[bytes] = []
        self._bare = 0  # bytes since the last that were content, or began some
        self._chunk_began = self._complete = self._until_close = False
        parser = httptools.HttpResponseParser(self)
        # Where both readings of an odd answer are the same, it is an answer: a bare line feed (RFC 9112, 2.2),
        # chunked coding beside a length (6.3: the coding counts), blanks after a chunk's size.
        parser.set_dangerous_leniencies(
            lenient_chunked_length=True,
            lenient_optional_cr_before_lf=True,
            lenient_spaces_after_chunk_size=True,
        )
        self._parser: httptools.HttpResponseParser | None = parser

    def __getstate__(self) -> tuple[Any, ...]:
        return (
            self.status,
            self.headers,
            self.pieces,
            self.first_byte_ns,
            self.done_ns,
            self.keep_alive,
            self.size,
        )

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        (
            self.status,
            self.headers,
            self.pieces,
            self.first_byte_ns,
            self.done_ns,
            self.keep_alive,
            self.size,
        ) = state
        self.max_bytes, self._parser, self._parts, self._bare = MAX_BYTES, None, [], 0
        self._chunk_began = self._until_close = False
        self._complete = self.done_ns is not None

    def feed(self, t_ns: int, data: bytes) -> bool:
        """Take one read. Returns whether the response is complete.

        Raises:
            WireError: The bytes are not HTTP, or more than is taken.
        """
        if self.first_byte_ns is None:
            self.first_byte_ns = t_ns
        parser = self._parser
        if parser is None:  # it is over: these are bytes that nobody has asked for
            self.keep_alive = False
            return True
        self._chunk_began = False
        problem = None
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            problem = "it switches to another protocol"
        except httptools.HttpParserError as error:
            problem = self._surplus() if self._complete else _words(error)
        if self._parts:
            self.pieces.append(
                Piece(t_ns, self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
            )
            self._parts.clear()
            self.size += _PER_PIECE_BYTES
            self._bare = 0
        else:
            self._bare = 0 if self._chunk_began else self._bare + len(data)
        self.size += len(data)
        problem = problem or self._excess()
        if problem:
            self.close()
            raise WireError(f"the answer is not HTTP/1.1 as it should be: {problem}")
        if self._complete:
            self.done_ns = t_ns
            self._parser = None
        return self._complete

    def end(self, t_ns: int) -> bool:
        """Take the end of the connection. Returns whether it completes the response."""
        self.close()
        self.keep_alive = False
        if self._until_close and self.done_ns is None:
            self.done_ns = t_ns
        return self.done_ns is not None

    def close(self) -> None:
        """Read no more. The parser and this hold each other, and the load generator collects no cycles."""
        self._parser = None

    def body(self) -> bytes:
        """Return the whole body."""
        return b"".join([piece.data for piece in self.pieces])

    def cut_off(self) -> str:
        """Say where an answer stood whose connection has ended."""
        where = "before the answer was complete"
        if self.status is None:
            where = "without an answer" if self.first_byte_ns is None else "within the header of the answer"
        return f"the server closed the connection {where}"

    def _excess(self) -> str | None:
        if self._bare > MAX_HEAD_BYTES and not self._complete:
            return f"more than {MAX_HEAD_BYTES // 1024} KiB without content"
        if self.size > self.max_bytes:
            return f"more than {self.max_bytes / 2**20:g} MiB"
        return None

    def _surplus(self) -> str | None:
        """Bytes follow a complete response: of a chunked one they are another's, else this one's length is wrong."""
        self.keep_alive = False
        return "the body is longer than its content-length" if "content-length" in self.headers else None

    # httptools calls these; what they raise ends `feed_data`.

    def on_message_begin(self) -> None:
        """Another response begins."""
        if self._complete:
            raise WireError("another response follows")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A line of the header, or of the trailer, is in."""
        if self.status is None and (name := name.lower()) in _KEPT:
            self.headers[name.decode()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """The header is in."""
        parser = self._parser
        if parser is None:
            return
        status = parser.get_status_code()
        if 100 <= status < 200:  # 100 Continue and the like: the real header follows
            self.headers.clear()
            return
        if status < 100:
            raise WireError(f"a status of {status}")
        if parser.get_http_version() not in ("1.1", "1.0"):
            raise WireError(f"its version is {parser.get_http_version()}")
        self.status, self._chunk_began = status, True
        coding = self.headers.get("transfer-encoding", "").strip().lower()
        if coding not in ("", "chunked"):
            raise WireError(f"the transfer coding {coding[:40]!r} was not asked for")
        length = self.headers.get("content-length")
        if coding:
            self.headers.pop("content-length", None)
        elif length is not None and int(length) > self.max_bytes and status not in _CONTENT_FREE:
            raise WireError(f"it announces {int(length)} bytes, and {self.max_bytes} are taken at most")
        self._until_close = not coding and length is None and status not in _CONTENT_FREE
        self.keep_alive = parser.should_keep_alive()

    def on_chunk_header(self) -> None:
        """A chunk begins."""
        self._chunk_began = True

    def on_body(self, data: bytes) -> None:
        """Content has arrived."""
        self._parts.append(data)

    def on_message_complete(self) -> None:
        """A response is over, if it was no interim one."""
        self._complete = self.status is not None


def _words(error: Exception) -> str:
    """Return what a parser's error means."""
    if isinstance(error.__context__, WireError):
        return str(error.__context__)
    return str(error) or type(error).__name__


def retry_after_s(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds of a ``Retry-After`` header (RFC 9110, 10.2.3): a number, or a date.

    Args:
        value: The header's; ``None``: there was none.
        now: When it was sent, by the server's own ``Date`` where it has one; else by this machine's clock.

    Returns:
        At least 0 (a date in the past); ``None`` for what is neither a number nor a date.
    """
    text = (value or "").strip()
    if text.replace(".", "", 1).isascii() and text.replace(".", "", 1).isdigit():
        return min(float(text), 1e9)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
