"""What a stamped stream says: server-sent events, then text, tokens' arrivals, usage and evidence.

Runs after the response is complete, so its cost is in no measured time; but it has a budget, since a
server decides how much there is to read. Nothing here raises for what a server can send.
(https://html.spec.whatwg.org/multipage/server-sent-events.html)
"""

import json
import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Never

from kvlab.evidence import as_tokens
from kvlab.taxonomy import ErrorType
from kvlab.timing.refusals import MOST_OF_A_MESSAGE, error_message, error_type
from kvlab.timing.response import Piece

_REASONING = ("reasoning_content", "reasoning", "thinking")
_THOUGHTS = frozenset(("thinking", "reasoning"))
#: Finish reasons of an answer that the server gave up; else the rest of it would pass for what the model said.
_GIVEN_UP = frozenset(("abort", "aborted", "error", "cancelled", "insufficient_system_resource"))


class Event(NamedTuple):
    """The data of one event, and when it was complete."""

    t_ns: int
    data: str


class Fault(NamedTuple):
    """An event that is an error by its form: ``event: error``, or a line that is no field of an event stream."""

    t_ns: int
    data: str


class _MalformedError(Exception):
    """A chunk is JSON, but not what the API says."""


@dataclass
class Generation:
    """The content of one streamed answer.

    Attributes:
        text: The visible answer; a refusal's words, too.
        reasoning: Reasoning text, where the server sends it apart.
        finish_reason: ``stop``, ``length``…; ``None``: never said.
        usage: The server's usage object as it came, the last one; ``None``: never sent.
        token_ns: Arrivals of events that carried generated text or tool calls, in nanoseconds.
        first_content_ns: Arrival of the first event with visible text.
        field_value: What stands at the configured dotted path, the last time it was there.
        kept_value: The same for the path of the kept KV entries.
        model: The model that the answer names, the last time it did.
        refused: Whether some of the text came as a refusal.
        streamed: Whether it came as a stream of events; else as one document, which has no token's time.
        error: The message of an error object inside the stream, or what is wrong with a chunk.
        error_type: What kind of error that is, as far as the server says.
        ended: Whether ``[DONE]`` or a finish reason was seen.
    """

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None
    token_ns: list[int] = field(default_factory=list)
    first_content_ns: int | None = None
    field_value: Any = None
    kept_value: Any = None
    model: str | None = None
    refused: bool = False
    streamed: bool = True
    error: str | None = None
    error_type: ErrorType = ErrorType.ENGINE_ERROR
    ended: bool = False

    @property
    def given_up(self) -> bool:
        """Whether the server ended it for a reason of its own, by its finish reason."""
        return (self.finish_reason or "").lower() in _GIVEN_UP


def usage_contradiction(generation: Generation) -> str | None:
    """Return why an answer's usage cannot be that of its own stream; ``None``: it can.

    An event carries a token or more, so there are at least as many tokens as events. Gateways cut
    texts anew, so a few events more are let pass.
    """
    reported = as_tokens((generation.usage or {}).get("completion_tokens"))
    events = len(generation.token_ns)
    if reported is None or events <= 1.5 * reported + 4:
        return None
    return f"usage contradicts the stream: {events} events with text, and {reported} completion tokens"


def events(pieces: Iterable[Piece], *, complete: bool = True) -> Iterator[Event | Fault]:
    """Split body pieces into events; comments and fields that say nothing here are passed over.

    An event's stamp is that of the read which brought its last byte: before that, no reader of the
    stream could have had it. A last event without its blank line is given too, since a server may end
    the stream so; not where the stream was cut off (``complete``: it was not), which may be within it.
    """
    rest: list[bytes] = []  # of the line that is not over: joined once, or a long line would cost its square
    lines: list[bytes] = []
    t_ns = 0
    for t_ns, data in _line_feeds(pieces):
        if b"\n" not in data:
            rest.append(data)
            continue
        *over, last = data.split(b"\n")
        over[0] = b"".join((*rest, over[0]))
        rest = [last] if last else []
        for line in over:
            if line:
                lines.append(line)
                continue
            yield from _event(t_ns, lines)
            lines = []
    if complete:
        yield from _event(t_ns, [*lines, b"".join(rest)])


def _line_feeds(pieces: Iterable[Piece]) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces with every line end as a line feed, and without a byte-order mark before the first."""
    split = False  # whether the piece before ended within a possible CR LF
    first = True
    for t_ns, data in pieces:
        if first and data:
            data, first = data.removeprefix(b"\xef\xbb\xbf"), False
        if b"\r" in data or split:
            data = data[1:] if split and data[:1] == b"\n" else data
            split = data[-1:] == b"\r"
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield t_ns, data


def _event(t_ns: int, lines: list[bytes]) -> Iterator[Event | Fault]:
    data, stray, wrong = [], [], False
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            wrong = wrong or value.strip() == b"error"
        elif name == b"error":  # llama.cpp's
            stray.append(value)
        elif line.startswith(b"{"):
            stray.append(line)
    text = b"\n".join(data).decode("utf-8", errors="replace")
    if stray:
        yield Fault(t_ns, b"\n".join(stray).decode("utf-8", errors="replace"))
    if data:
        yield Fault(t_ns, text) if wrong else Event(t_ns, text)


def read_stream(
    stream: Iterable[Event | Fault],
    field_path: str | None = None,
    kept_path: str | None = None,
    *,
    budget_s: float = math.inf,
) -> Generation:
    """Read the events of a chat or completions stream; never raises for what a server can send.

    Args:
        stream: The events, with stamps.
        field_path: A dotted path (``a.b.0.c``) into each chunk, read as cache evidence.
        kept_path: The same, read as how many entries of the prompt the KV cache has kept.
        budget_s: How long it may take.
    """
    generation = Generation()
    texts: list[str] = []
    thoughts: list[str] = []
    limit = time.monotonic() + budget_s
    for number, event in enumerate(stream):
        t_ns, data = event
        if number % 512 == 511 and time.monotonic() > limit:
            _fail(generation, f"there is more in the answer than can be read in {budget_s:g} s")
            break
        if data.strip() == "[DONE]":
            generation.ended = True
            break
        if not data or data.isspace():
            continue
        try:
            chunk = parse(data)
            if isinstance(event, Fault):
                _read_error(generation, chunk.get("error") or chunk if isinstance(chunk, dict) else chunk)
                continue
            _read_chunk(generation, t_ns, chunk, texts, thoughts)
            _read_paths(generation, chunk, field_path, kept_path)
        except (ValueError, RecursionError):
            why = data if isinstance(event, Fault) else f"a chunk is not JSON: {_some(data)!r}"
            _fail(generation, _some(why))
        except _MalformedError as error:
            _fail(generation, f"a chunk is malformed: {error}: {_some(data)!r}")
    generation.text, generation.reasoning = "".join(texts), "".join(thoughts)
    return generation


def read_document(body: bytes, field_path: str | None = None, kept_path: str | None = None) -> Generation:
    """Read an answer that is one JSON document though a stream was asked for: an error, or a whole answer."""
    generation = Generation(streamed=False)
    text = body.decode("utf-8", errors="replace").strip()
    try:
        found = parse(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        _fail(
            generation, f"the answer is no event stream: {_some(text)!r}" if text else "the answer is empty"
        )
        return generation
    texts: list[str] = []
    thoughts: list[str] = []
    try:
        _read_chunk(generation, 0, found, texts, thoughts)
    except _MalformedError as error:
        _fail(generation, f"the answer is malformed: {error}: {_some(text)!r}")
    _read_paths(generation, found, field_path, kept_path)
    generation.text, generation.reasoning = "".join(texts), "".join(thoughts)
    if not generation.ended:
        _fail(generation, f"the answer is no event stream: {_some(text)!r}")
    generation.token_ns, generation.first_content_ns = [], None  # it has no token's time
    return generation


def parse(data: str) -> Any:  # noqa: ANN401 - JSON
    """Parse JSON into what can be stored: finite numbers, and whole characters.

    Not by msgspec or orjson: they refuse half a surrogate pair, which servers send, and make floats of
    integers beyond 64 bits.

    Raises:
        ValueError: It is not JSON; NaN and infinities, which Python's parser takes, are none.
        RecursionError: It is nested too deeply.
    """
    chunk = _DECODER.decode(data)
    return _whole(chunk) if _SURROGATE.search(data) else chunk


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse(text)


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")


def _whole(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a JSON value with U+FFFD for each half of a character, which no UTF-8 can hold."""
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def dig(value: Any, path: str) -> Any:  # noqa: ANN401 - JSON
    """Return what stands at a dotted path of nested objects and lists, else ``None``."""
    for part in path.split("."):
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _fail(generation: Generation, why: str) -> None:
    generation.error = generation.error or why


def _read_error(generation: Generation, error: Any) -> None:  # noqa: ANN401 - JSON
    if generation.error is None or isinstance(error, dict):  # the server's own words come before ours
        generation.error, generation.error_type = error_message(error), error_type(error)


def _some(text: str) -> str:
    return text[:MOST_OF_A_MESSAGE]


def _read_paths(generation: Generation, chunk: Any, field_path: str | None, kept_path: str | None) -> None:  # noqa: ANN401 - JSON
    if field_path and (found := dig(chunk, field_path)) is not None:
        generation.field_value = found
    if kept_path and (kept := dig(chunk, kept_path)) is not None:
        generation.kept_value = kept


def _read_chunk(
    generation: Generation,
    t_ns: int,
    chunk: Any,  # noqa: ANN401 - JSON
    texts: list[str],
    thoughts: list[str],
) -> None:
    if not isinstance(chunk, dict):
        raise _MalformedError("the chunk is no object")
    if error := chunk.get("error"):
        _read_error(generation, error)
    elif chunk.get("object") == "error":
        _read_error(generation, chunk)
    if isinstance(chunk.get("usage"), dict):
        generation.usage = chunk["usage"]
    if isinstance(name := chunk.get("model"), str) and name:
        generation.model = name
    choices = chunk.get("choices") or ()
    if not isinstance(choices, list | tuple):
        raise _MalformedError("choices is not a list")
    for choice in choices:
        _read_choice(generation, t_ns, choice, texts, thoughts)


def _read_choice(
    generation: Generation,
    t_ns: int,
    choice: Any,  # noqa: ANN401 - JSON
    texts: list[str],
    thoughts: list[str],
) -> None:
    if not isinstance(choice, dict):
        raise _MalformedError("a choice is no object")
    if choice.get("index"):  # one answer was asked for; a second one's tokens are not the first one's
        return
    delta = choice.get("delta") or choice.get("message") or {}
    if not isinstance(delta, dict):
        raise _MalformedError("delta is no object")
    content, thought = _parts(delta, "content")
    content = content or _text(choice, "text")
    refusal = _text(delta, "refusal")
    thought = thought or next((text for name in _REASONING if (text := _text(delta, name))), "")
    # A token whose text is empty (a special token, half a character) still ends a stream with its
    # finish reason; without text it cannot be told from a chunk that carries none, so it is none.
    if content or thought or refusal or delta.get("tool_calls") or delta.get("function_call"):
        generation.token_ns.append(t_ns)
    if content or refusal:
        generation.first_content_ns = generation.first_content_ns or t_ns
        texts += (content, refusal)
    generation.refused = generation.refused or bool(refusal)
    thoughts.append(thought)
    if finish := _text(choice, "finish_reason"):
        generation.finish_reason = finish
        generation.ended = True


def _text(place: dict[str, Any], name: str) -> str:
    """Return a text, or an empty one where there is none."""
    value = place.get(name)
    if not value:
        return ""
    if not isinstance(value, str):
        raise _MalformedError(f"{name} is not text")
    return value


def _parts(place: dict[str, Any], name: str) -> tuple[str, str]:
    """Return the visible text and the reasoning of a content that is a text, or a list of parts."""
    value = place.get(name)
    if not isinstance(value, list):
        return _text(place, name), ""
    content, thought = "", ""
    for part in value:
        if not isinstance(part, dict):
            raise _MalformedError(f"{name} is a list of what is no part")
        inner = part.get("text") or part.get("refusal") or part.get("thinking") or part.get("reasoning")
        if isinstance(inner, list):
            inner = "".join(_text(one, "text") for one in inner if isinstance(one, dict))
        if inner and not isinstance(inner, str):
            raise _MalformedError(f"a part of {name} is not text")
        if part.get("type") in _THOUGHTS:
            thought += inner or ""
        else:
            content += inner or ""
    return content, thought
