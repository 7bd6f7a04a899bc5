"""What a stamped stream of OpenAI-style chunks says: text, tokens' arrivals, usage, evidence.

Runs after the response is complete, so its cost is in no measured time.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kvlab.timing.sse import Event


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
        error: The message of an error object inside the stream.
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
    error: str | None = None
    ended: bool = False


def read_stream(
    stream: Iterable[Event], field_path: str | None = None, kept_path: str | None = None
) -> Generation:
    """Read the events of a chat or completions stream.

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
            chunk = json.loads(data)
        except ValueError:
            generation.error = generation.error or f"a chunk is not JSON: {data[:80]!r}"
            continue
        if isinstance(chunk, dict):
            _read_chunk(generation, t_ns, chunk, field_path)
            if kept_path and (kept := dig(chunk, kept_path)) is not None:
                generation.kept_value = kept
    return generation


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


def _read_chunk(generation: Generation, t_ns: int, chunk: dict[str, Any], field_path: str | None) -> None:
    if chunk.get("error"):
        error = chunk["error"]
        generation.error = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    if isinstance(chunk.get("usage"), dict):
        generation.usage = chunk["usage"]
    if field_path and (found := dig(chunk, field_path)) is not None:
        generation.field_value = found
    for choice in chunk.get("choices") or ():
        _read_choice(generation, t_ns, choice)


def _read_choice(generation: Generation, t_ns: int, choice: dict[str, Any]) -> None:
    delta = choice.get("delta") or {}
    content = delta.get("content") or choice.get("text") or ""
    reasoning = delta.get("reasoning_content") or delta.get("reasoning") or ""
    # A token whose text is empty (a special token, half a character) still ends a stream with its
    # finish reason; without text it cannot be told from a chunk that carries none, so it is none.
    if content or reasoning or delta.get("tool_calls"):
        generation.token_ns.append(t_ns)
    if content:
        generation.first_content_ns = generation.first_content_ns or t_ns
        generation.text += content
    generation.reasoning += reasoning
    if choice.get("finish_reason"):
        generation.finish_reason = choice["finish_reason"]
        generation.ended = True
