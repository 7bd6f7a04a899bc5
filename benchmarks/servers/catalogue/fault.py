"""One fault: what the server sends, step by step, and what it must come to."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any

#: The key that the client has to send: some of the answers echo it, and it must be stored nowhere.
KEY = b"sk-CANARY-0123456789abcdef"
TOKENS = ("The", " code", " is", " 1234")


class End(enum.Enum):
    """What happens to the connection instead of the next request."""

    CLOSE = "close"
    RESET = "reset"
    HANG = "hang"


CLOSE, RESET, HANG = End.CLOSE, End.RESET, End.HANG


@dataclass(frozen=True)
class Endless:
    """Bytes that are sent again and again, with a pause between, until the client hangs up."""

    data: bytes
    pause_s: float = 0.0


Step = bytes | float | End | Endless


@dataclass(frozen=True)
class Fault:
    """A row of the catalogue.

    Attributes:
        name: Unique.
        want: ``ok``, or the label of the failure.
        steps: What is sent (bytes), waited (seconds), and how it ends.
        says: What must stand in the failure's message; of an answer, in its text.
        untimed: Whether the answer is one that has no time to first token.
    """

    name: str
    want: str
    steps: tuple[Step, ...]
    says: str = ""
    untimed: bool = False


def chunked(data: bytes, extension: bytes = b"") -> bytes:
    """One chunk of chunked coding."""
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


LAST = b"0\r\n\r\n"
SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(value: Any, name: bytes = b"data: ") -> bytes:
    """One event of a stream; what is bytes already is sent as it is."""
    raw = value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode()
    return name + raw + b"\n\n"


def chunk(delta: Any, finish: Any = None, **more: Any) -> dict[str, Any]:
    """One chunk of a chat stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
        **more,
    }


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 0},
}
ROLE = event(chunk({"role": "assistant", "content": ""}))
WORDS = [event(chunk({"content": word}, "stop" if word == TOKENS[-1] else None)) for word in TOKENS]
USAGE_EVENT = event({"id": "c", "model": "m", "choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"
#: A whole stream's body.
BODY = ROLE + b"".join(WORDS) + USAGE_EVENT + DONE
#: The whole answer as it should be.
GOOD: tuple[Step, ...] = (SSE_HEAD + chunked(ROLE), *(part for word in WORDS for part in (chunked(word), 0.002)),
                          chunked(USAGE_EVENT + DONE) + LAST)  # fmt: skip


def answer(body: bytes, head: bytes = SSE_HEAD, last: bytes = LAST) -> tuple[Step, ...]:
    """A stream with this body, in chunked coding, in one go."""
    return (head + chunked(body) + last,)


def sized(body: bytes, length: bytes | None = None, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    """A response with a content length."""
    said = b"%d" % len(body) if length is None else length
    return b"HTTP/1.1 %b\r\nContent-Type: text/event-stream\r\n%bContent-Length: %b\r\n\r\n%b" % (
        status, more, said, body,
    )  # fmt: skip
