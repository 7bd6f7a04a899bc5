"""HTTP/1.1 responses, read without I/O: bytes with their stamps in, body pieces with stamps out.

Nothing here looks inside the body. It does only what must happen while a response arrives: find
out where it ends. What the bytes mean is worked out after the clock has stopped.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class WireError(Exception):
    """The bytes are not a complete HTTP/1.1 response."""


class Piece(NamedTuple):
    """Bytes of a body, and the moment at which the read that brought them returned."""

    t_ns: int
    data: bytes


def chunk_size(line: bytes | bytearray) -> int:
    """Return the size that stands before a chunk.

    Raises:
        ValueError: It is none; a negative one is none, either.
    """
    size = int(line.split(b";")[0], 16)
    if size < 0:
        raise ValueError("a chunk's size is negative")
    return size


@dataclass
class ResponseReader:
    """One response to one request.

    Attributes:
        status: The HTTP status; ``None`` until the header is in.
        headers: Lower-case names; of a repeated one, the last.
        pieces: The body, transfer coding removed, as it arrived.
        first_byte_ns: The stamp of the first read.
        done_ns: The stamp of the read that completed the response.
        keep_alive: Whether the connection can carry another request.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    pieces: list[Piece] = field(default_factory=list)
    first_byte_ns: int | None = None
    done_ns: int | None = None
    keep_alive: bool = True
    _buffer: bytearray = field(default_factory=bytearray)
    _remaining: int = -1  # bytes of the body or chunk still to come; -1: none announced
    _chunked: bool = False
    _between: bool = False  # a chunk has ended, its line end is still to come

    def feed(self, t_ns: int, data: bytes) -> bool:
        """Take one read. Returns whether the response is complete.

        Raises:
            WireError: The bytes are not HTTP.
        """
        if self.first_byte_ns is None:
            self.first_byte_ns = t_ns
        self._buffer += data
        if self.status is None and not self._read_head():
            return False
        complete = self._read_chunks(t_ns) if self._chunked else self._read_plain(t_ns)
        if complete:
            self.done_ns = t_ns
        return complete

    def end(self, t_ns: int) -> bool:
        """Take the end of the connection. Returns whether it completes the response."""
        until_close = self.status is not None and not self._chunked and self._remaining < 0
        self.keep_alive = False
        if until_close and self.done_ns is None:
            self.done_ns = t_ns
        return self.done_ns is not None

    def body(self) -> bytes:
        """Return the whole body."""
        return b"".join(piece.data for piece in self.pieces)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > 65_536:
                raise WireError("the response has no end of header within 64 KiB")
            return False
        lines = self._buffer[:end].decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        version, _, rest = lines[0].partition(" ")
        if not version.startswith("HTTP/1.") or not (rest.isascii() and rest[:3].isdigit()):
            raise WireError("the answer is not HTTP/1.1")
        status = int(rest[:3])
        if status < 200:  # 100 Continue and the like: the real header follows
            return self._read_head()
        self.status = status
        self.headers = {
            n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in lines[1:])
        }
        self._chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        length = self.headers.get("content-length")
        if not self._chunked and length is not None:
            self._remaining = int(length) if length.isascii() and length.isdigit() else -1
        if status in (204, 304):
            self._remaining = 0
        self.keep_alive = version == "HTTP/1.1" and "close" not in self.headers.get("connection", "").lower()
        return True

    def _read_plain(self, t_ns: int) -> bool:
        if self._buffer:
            self.pieces.append(Piece(t_ns, bytes(self._buffer)))
            if self._remaining >= 0:
                self._remaining -= len(self._buffer)
            self._buffer.clear()
        if self._remaining < 0 and "content-length" in self.headers:
            raise WireError("the body is longer than its content-length")
        return self._remaining == 0

    def _read_chunks(self, t_ns: int) -> bool:
        """Chunked coding (RFC 9112, 7.1). A chunk's bytes are passed on as they come."""
        while True:
            if self._remaining > 0:
                if not self._buffer:
                    return False
                data = bytes(self._buffer[: self._remaining])
                del self._buffer[: len(data)]
                self.pieces.append(Piece(t_ns, data))
                self._remaining -= len(data)
                if self._remaining == 0:
                    self._remaining, self._between = -1, True
            elif self._remaining == 0:
                return self._read_trailer()
            elif not self._read_chunk_size():
                return False

    def _read_chunk_size(self) -> bool:
        start = 2 if self._between else 0  # the line end that closes the chunk before
        end = self._buffer.find(b"\r\n", start)
        if end < 0:
            return False
        try:
            self._remaining = chunk_size(self._buffer[start:end])
        except ValueError:
            raise WireError("a chunk of the response has no valid size") from None
        del self._buffer[: end + 2]
        self._between = False
        return True

    def _read_trailer(self) -> bool:
        if self._buffer.startswith(b"\r\n"):
            return True
        return self._buffer.find(b"\r\n\r\n") >= 0
