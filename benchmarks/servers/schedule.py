"""From a request to the list of writes that answers it, each with the time at which it is due.

Pure: no clock is read here. All times are nanoseconds on the clock of the caller's `start_ns`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from . import shapes
from .http import LAST_CHUNK, frame, to_json
from .options import Options
from .shapes import ChunkShapes, Counts

ENGINE_FAILED = "EngineCore encountered an issue."
CHOP = b'data: {"id":"chatcmpl-cut","choices":[{"index":0,"del\n\n'


class Event(NamedTuple):
    """One SSE event; `tokens` is 1 for a generated token."""

    due_ns: int
    kind: str
    tokens: int
    data: bytes


class Write(NamedTuple):
    """Bytes that go out in one transport.write."""

    due_ns: int
    kind: str
    tokens: int
    data: bytes


@dataclass(frozen=True)
class Plan:
    """What one request will be answered with."""

    words: list[int]
    due_ns: list[int]  # one for each token
    finish: str
    reasoning_tokens: int


def token_gaps_ms(
    options: Options, explicit: Sequence[float], uncached: int, limit: int, *, ignore_eos: bool
) -> list[float]:
    """Time to the first token, then the gaps: min(limit, schedule length) of them."""
    scripted = explicit or options.schedule_ms
    if scripted:
        return list(scripted[:limit])
    ttft = options.base_ms + options.ms_per_uncached_token * uncached
    tokens = limit if ignore_eos else min(limit, options.output_tokens)
    return [ttft] + [options.itl_ms] * (tokens - 1)


def plan(gaps_ms: Sequence[float], start_ns: int, limit: int, seed: int, options: Options) -> Plan:
    """The generated words and their times."""
    due_ns = [start_ns + int(ms * 1e6) for ms in accumulate(gaps_ms)]
    words = [(seed + i) % len(shapes.PIECES) for i in range(len(due_ns))]
    finish = "length" if len(words) >= limit else "stop"
    return Plan(words, due_ns, finish, min(options.reasoning_tokens, len(words)))


def stream_events(
    plan: Plan, start_ns: int, shape: ChunkShapes, counts: Counts, options: Options, *, include_usage: bool
) -> list[Event]:
    """All events of a stream, in order, [DONE] included."""
    told = shapes.usage(counts, options, stream=True) if include_usage else None
    extra: dict[str, object] = {}
    if options.custom_metric_field:
        shapes.put(extra, options.custom_metric_field, counts.cached)
    if options.kv_field:
        shapes.put(extra, options.kv_field, counts.kept)
    events = _token_events(plan, start_ns, shape, options, {} if told else extra)
    if shape.chat:
        lead_ns = int(options.role_chunk_lead_ms * 1e6)
        due = max(start_ns, plan.due_ns[0] - lead_ns)
        at = next(i for i, event in enumerate(events) if event.due_ns >= due)
        events.insert(at, Event(due, "role", 0, shape.role()))
        if at:  # what came before the role chunk follows it, as it opens every chat
            events[: at + 1] = [events[at], *(e._replace(due_ns=due) for e in events[:at])]
    last = plan.due_ns[-1]
    if told:
        events.append(Event(last, "usage", 0, shape.usage(told, extra)))
    events.append(Event(last, "done", 0, shapes.DONE))
    return events


def _token_events(
    plan: Plan, start_ns: int, shape: ChunkShapes, options: Options, extra: dict[str, object]
) -> list[Event]:
    events: list[Event] = []
    before, final = start_ns, len(plan.words) - 1
    empty = shape.empty() if options.empty_chunks else b""
    tail = "," + json.dumps(extra)[1:-1] if extra else ""
    for i, (word, due) in enumerate(zip(plan.words, plan.due_ns, strict=True)):
        for _ in range(options.empty_chunks):
            events.append(Event((before + due) // 2, "empty", 0, empty))
        data = shape.token(
            word,
            first=i == 0,
            reasoning=shape.chat and i < plan.reasoning_tokens,
            finish=plan.finish if i == final else None,
            extra=tail if i == final else "",
            silent=i < options.silent_tokens,
        )
        events.append(Event(due, "token", 1, data))
        before = due
    return events


def with_fault(events: list[Event], fault: str | None, after_tokens: int) -> list[Event]:
    """The stream as a fault leaves it; what ends it early is left to the caller."""
    if fault == "no_done":
        return events[:-1]
    if fault not in ("stall_mid", "disconnect_mid", "malformed", "error_event"):
        return events
    at = _after_tokens(events, after_tokens)
    if fault in ("stall_mid", "disconnect_mid"):
        return events[:at]
    due = events[max(0, at - 1)].due_ns
    if fault == "malformed":
        return [*events[:at], Event(due, "malformed", 0, CHOP), *events[at:]]
    body = to_json(shapes.error(500, ENGINE_FAILED))
    return [*events[:at], Event(due, "error", 0, b"data: " + body + b"\n\n"), events[-1]._replace(due_ns=due)]


def _after_tokens(events: Sequence[Event], tokens: int) -> int:
    seen = 0
    for i, event in enumerate(events):
        if seen >= tokens:
            return i
        seen += event.tokens
    return len(events) - 1


def writes(events: Sequence[Event], options: Options) -> list[Write]:
    """Events framed as HTTP chunks and cut into writes."""
    size = options.coalesce
    if size == 1:
        whole = [Write(due, kind, tokens, frame(data)) for due, kind, tokens, data in events]
    else:
        whole = [_joined(events[at : at + size]) for at in range(0, len(events), size)]
    if not options.split:
        return whole
    gap_ns = int(options.split_gap_ms * 1e6)
    halves: list[Write] = []
    for write in whole:
        # An event starts after the one before it is complete, however short the gaps of the script.
        earliest = halves[-1].due_ns if halves else 0
        halves += _halves(write._replace(due_ns=max(earliest, write.due_ns)), gap_ns)
    return halves


def _joined(group: Sequence[Event]) -> Write:
    kinds, tokens = "+".join(e.kind for e in group), sum(e.tokens for e in group)
    return Write(group[-1].due_ns, kinds, tokens, frame(b"".join(e.data for e in group)))


def _halves(write: Write, gap_ns: int) -> tuple[Write, Write]:
    # Inside a multi-byte character where there is one: that is where naive decoders break.
    wide = next((i for i, byte in enumerate(write.data) if byte > 0x7F), None)
    at = len(write.data) // 2 if wide is None else wide + 1
    # The token counts as emitted with the half that completes it.
    return (
        Write(write.due_ns, "half", 0, write.data[:at]),
        write._replace(due_ns=write.due_ns + gap_ns, data=write.data[at:]),
    )


END = Write(0, "end", 0, LAST_CHUNK)
