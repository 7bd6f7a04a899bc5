"""Is a response complete? Found out in microseconds, while hundreds of others are on their way.

`kvlab.timing.response` reads a response in full; that is done later, by another process. Here only as
much is looked at as is needed to know that the connection is free again.
"""

from dataclasses import dataclass, field

from kvlab.timing.response import Piece, chunk_size

_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(slots=True)
class Incoming:
    """A response on its way.

    Attributes:
        pieces: Every read with its stamp, as it came: header, transfer coding and all.
        status: The HTTP status; 0 until the header is in.
        keep_alive: Whether the connection can carry another request.
    """

    pieces: list[Piece] = field(default_factory=list)
    status: int = 0
    keep_alive: bool = True
    _body_at: int = 0
    _length: int = -1  # of the body; -1: chunked or until the end of the connection
    _chunked: bool = False
    _seen: int = 0
    _walked: int = 0  # where, in all that has come, the next chunk's size stands

    def feed(self, t_ns: int, data: bytes) -> bool:
        """Take one read. Returns whether the response is complete."""
        self.pieces.append(Piece(t_ns, data))
        self._seen += len(data)
        if not self.status and not self._read_head():
            return False
        if self._chunked:
            # Only a read that ends so can be the last; a chunk's content may end so, too.
            return self._ends_so(data) and self._last_chunk_is_there()
        return self._length >= 0 and self._seen - self._body_at >= self._length

    def raw(self) -> bytes:
        """Return all bytes so far."""
        return b"".join([piece.data for piece in self.pieces])

    def body(self) -> bytes:
        """Return the body of a complete response, transfer coding removed."""
        raw, at, parts = self.raw(), self._body_at, []
        if not self._chunked:
            return raw[at:]
        while size := int(raw[at : (end := raw.index(b"\r\n", at))].split(b";")[0], 16):
            parts.append(raw[end + 2 : end + 2 + size])
            at = end + size + 4
        return b"".join(parts)

    def _ends_so(self, data: bytes) -> bool:
        tail = data if len(data) >= 5 or len(self.pieces) < 2 else self.raw()[-5:]
        return tail.endswith(_LAST_CHUNK)

    def _read_head(self) -> bool:
        raw = self.raw()
        end = raw.find(b"\r\n\r\n")
        if end < 0:
            return False
        status = raw[9:12]
        if not status.isdigit() or int(status) < 200:
            # 100 Continue, or no HTTP at all: rare enough to be left to the full reader.
            raise ValueError("the answer is not a plain HTTP/1.1 response")
        head = raw[:end].lower()
        self.status = int(status)
        self._body_at = self._walked = end + 4
        coding = head.partition(b"\r\ntransfer-encoding:")[2].split(b"\r\n", 1)[0]
        self._chunked = b"chunked" in coding
        self.keep_alive = head.startswith(b"http/1.1") and b"\r\nconnection: close" not in head
        if not self._chunked and (at := head.find(b"\r\ncontent-length:")) >= 0:
            self._length = int(head[at + 17 :].split(b"\r\n", 1)[0])
        return True

    def _last_chunk_is_there(self) -> bool:
        """Follow the chunk sizes (RFC 9112, 7.1) to the one that is 0."""
        raw = self.raw()
        while True:
            end = raw.find(b"\r\n", self._walked)
            if end < 0:
                return False
            size = chunk_size(raw[self._walked : end])
            if size == 0:
                return True
            if end + size + 4 > len(raw):
                return False
            self._walked = end + size + 4
