"""What a stamped stream of OpenAI-style chunks says: text, tokens' arrivals, usage, evidence.

Runs after the response is complete, so its cost is in no measured time.
"""

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Never

from kvlab.timing.sse import Event


class _MalformedError(Exception):
    """A chunk is JSON, but not what the API says."""


@dataclass
class Generation:
    """The content of one streamed answer.

    Attributes:
        text: The visible answer.
        reasoning: Reasoning text, where the server sends it apart.
        finish_reason: ``stop``, ``length``…; ``None``: never said.
        usage: The server's usage object as it came; ``None``: never sent.
        token_ns: Arrivals of events that carried generated text or tool calls, in nanoseconds.
        first_content_ns: Arrival of the first event with visible text.
        field_value: What stands at the configured dotted path, the last time it was there.
        kept_value: The same for the path of the kept KV entries.
        model: The model that the answer names, the last time it did.
        error: The message of an error object inside the stream, or what is wrong with a chunk.
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
    error: str | None = None
    ended: bool = False


def read_stream(
    stream: Iterable[Event], field_path: str | None = None, kept_path: str | None = None
) -> Generation:
    """Read the events of a chat or completions stream; never raises for what a server can send.

    Args:
        stream: The events, with stamps.
        field_path: A dotted path (``a.b.0.c``) into each chunk, read as cache evidence.
        kept_path: The same, read as how many entries of the prompt the KV cache has kept.
    """
    generation = Generation()
    for t_ns, data in stream:
        if data.strip() == "[DONE]":
            generation.ended = True
            continue
        try:
            chunk = parse(data)
            _read_chunk(generation, t_ns, chunk, field_path)
            if kept_path and (kept := dig(chunk, kept_path)) is not None:
                generation.kept_value = kept
        except (ValueError, RecursionError):
            generation.error = generation.error or f"a chunk is not JSON: {data[:80]!r}"
        except _MalformedError as error:
            generation.error = generation.error or f"a chunk is malformed: {error}: {data[:80]!r}"
    return generation


def parse(data: str) -> Any:  # noqa: ANN401 - JSON
    """Parse JSON into what can be stored: finite numbers, and whole characters.

    Raises:
        ValueError: It is no JSON; NaN and infinities, which Python's parser takes, are none.
        RecursionError: It is nested too deeply.
    """
    chunk = _DECODER.decode(data)
    return _whole(chunk) if _SURROGATE.search(data) else chunk


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON")


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
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _read_chunk(generation: Generation, t_ns: int, chunk: Any, field_path: str | None) -> None:  # noqa: ANN401 - JSON
    if not isinstance(chunk, dict):
        raise _MalformedError("the chunk is no object")
    if error := chunk.get("error"):
        generation.error = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    if isinstance(name := chunk.get("model"), str) and name:
        generation.model = name
    if isinstance(chunk.get("usage"), dict):
        generation.usage = chunk["usage"]
    if field_path and (found := dig(chunk, field_path)) is not None:
        generation.field_value = found
    choices = chunk.get("choices") or ()
    if not isinstance(choices, list | tuple):
        raise _MalformedError("choices is no list")
    for choice in choices:
        _read_choice(generation, t_ns, choice)


def _read_choice(generation: Generation, t_ns: int, choice: Any) -> None:  # noqa: ANN401 - JSON
    if not isinstance(choice, dict):
        raise _MalformedError("a choice is no object")
    delta = choice.get("delta") or {}
    if not isinstance(delta, dict):
        raise _MalformedError("delta is no object")
    content = _text(delta, "content") or _text(choice, "text")
    reasoning = _text(delta, "reasoning_content") or _text(delta, "reasoning")
    # A token whose text is empty (a special token, half a character) still ends a stream with its
    # finish reason; without text it cannot be told from a chunk that carries none, so it is none.
    if content or reasoning or delta.get("tool_calls"):
        generation.token_ns.append(t_ns)
    if content:
        generation.first_content_ns = generation.first_content_ns or t_ns
        generation.text += content
    generation.reasoning += reasoning
    if finish := _text(choice, "finish_reason"):
        generation.finish_reason = finish
        generation.ended = True


def _text(place: dict[str, Any], name: str) -> str:
    """Return a text, or an empty one where there is none."""
    value = place.get(name)
    if not value:
        return ""
    if not isinstance(value, str):
        raise _MalformedError(f"{name} is no text")
    return value
