"""Schedules, without a server."""

from __future__ import annotations

import pytest

from benchmarks.servers import schedule
from benchmarks.servers.options import OptionError, Options, changed


def planned(options, gaps=(10, 5, 5), *, chat=True):
    plan = schedule.plan(gaps, 0, len(gaps), 0, options)
    shape = schedule.ChunkShapes("id", options, chat=chat)
    counts = schedule.Counts(30, 16, len(gaps), 0)
    return schedule.stream_events(plan, 0, shape, counts, options, include_usage=True)


def kinds_and_ms(events):
    return [(event.kind, event.due_ns / 1e6) for event in events]


def test_scripted_times():
    assert kinds_and_ms(planned(Options())) == [
        ("role", 10),
        ("token", 10),
        ("token", 15),
        ("token", 20),
        ("usage", 20),
        ("done", 20),
    ]


def test_role_chunk_leads_and_empty_chunks_lie_between():
    events = kinds_and_ms(planned(Options(role_chunk_lead_ms=8, empty_chunks=1)))
    assert events[:5] == [("role", 2), ("empty", 5), ("token", 10), ("empty", 12.5), ("token", 15)]


def test_gaps_follow_the_uncached_tokens():
    options = Options(base_ms=3, ms_per_uncached_token=0.5, itl_ms=2, output_tokens=4)
    assert schedule.token_gaps_ms(options, [], 10, 99, ignore_eos=False) == [8, 2, 2, 2]
    assert schedule.token_gaps_ms(options, [], 10, 6, ignore_eos=True) == [8, 2, 2, 2, 2, 2]
    assert schedule.token_gaps_ms(options, [7, 1, 1], 10, 2, ignore_eos=False) == [7, 1]


@pytest.mark.parametrize(
    "options", [Options(), Options(coalesce=4), Options(split=True), Options(split=True, coalesce=3)]
)
def test_writes_carry_the_same_bytes_and_all_tokens(options):
    events = planned(options)
    writes = schedule.writes(events, options)
    body = b"".join(event.data for event in events)
    assert unchunked(b"".join(write.data for write in writes)) == body
    assert sum(write.tokens for write in writes) == 3
    assert [w.due_ns for w in writes] == sorted(w.due_ns for w in writes)


def test_the_second_half_of_a_split_write_comes_later_and_completes_the_token():
    options = Options(split=True, split_gap_ms=2)
    halves = schedule.writes(planned(options, gaps=(10,)), options)
    assert [(w.kind, w.tokens, w.due_ns / 1e6) for w in halves[:4]] == [
        ("half", 0, 10),
        ("role", 0, 12),
        ("half", 0, 12),
        ("token", 1, 14),
    ]


def unchunked(raw):
    body = b""
    while raw:
        size, _, raw = raw.partition(b"\r\n")
        body, raw = body + raw[: int(size, 16)], raw[int(size, 16) + 2 :]
    return body


def test_unknown_options_are_refused():
    with pytest.raises(OptionError, match="bogus"):
        changed(Options(), {"bogus": 1})
    with pytest.raises(OptionError, match="persona"):
        Options(persona="nobody")
