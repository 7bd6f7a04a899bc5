"""Server-sent events out of stamped body pieces.

An event's stamp is that of the read which brought its last byte: before that, no reader of the
stream could have had it. (https://html.spec.whatwg.org/multipage/server-sent-events.html)
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kvlab.timing.response import Piece


class Event(NamedTuple):
    """The data of one event, and when it was complete."""

    t_ns: int
    data: str


def events(pieces: Iterable[Piece]) -> Iterator[Event]:
    """Split body pieces into events; comments and fields other than ``data`` are passed over.

    A last event without its blank line is given too, since a server may close the stream so.
    """
    rest = b""
    lines: list[bytes] = []
    t_ns = 0
    for t_ns, data in pieces:
        *complete, rest = (rest + data).split(b"\n")
        for line in complete:
            line = line.rstrip(b"\r")
            if line:
                lines.append(line)
                continue
            yield from _event(t_ns, lines)
            lines = []
    yield from _event(t_ns, [*lines, rest.rstrip(b"\r")])


def _event(t_ns: int, lines: list[bytes]) -> Iterator[Event]:
    data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    if data:
        yield Event(t_ns, b"\n".join(data).decode("utf-8", errors="replace"))
