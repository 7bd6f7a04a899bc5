import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlab.timing.response import Piece, ResponseReader, WireError
from kvlab.timing.stream import events


def chunked(parts: list[bytes]) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


def feed(data: bytes, cuts: list[int]) -> ResponseReader:
    reader, start = ResponseReader(), 0
    for t_ns, end in enumerate(
        [*sorted({min(cut, len(data)) for cut in cuts} - {0, len(data)}), len(data)], 1
    ):
        reader.feed(t_ns, data[start:end])
        start = end
    return reader


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(1, 400), max_size=30))
def test_chunked_bodies_survive_any_fragmentation(parts, cuts):
    reader = feed(chunked(parts), cuts)
    assert reader.done_ns is not None
    assert reader.body() == b"".join(parts)


@given(st.binary(max_size=60), st.lists(st.integers(1, 200), max_size=20))
def test_bodies_with_a_length_survive_any_fragmentation(body, cuts):
    reader = feed(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), cuts)
    assert (reader.body(), reader.done_ns is not None) == (body, True)


def test_part_of_a_chunk_has_the_stamp_of_its_own_read():
    reader = ResponseReader()
    reader.feed(1, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    reader.feed(2, b"b\r\ndata: a\n")
    assert not reader.feed(3, b"\nxy\r\n")
    assert reader.feed(4, b"0\r\n\r\n")
    assert reader.pieces == [Piece(2, b"data: a\n"), Piece(3, b"\nxy")]
    assert (reader.first_byte_ns, reader.done_ns) == (1, 4)


def test_data_that_looks_like_the_end_is_not_the_end():
    reader = ResponseReader()
    data = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n0\r\n\r\n"
    assert not reader.feed(1, data)
    assert reader.feed(2, b"\r\n0\r\n\r\n")
    assert reader.body() == b"0\r\n\r\n"


def test_a_body_without_length_ends_with_the_connection():
    reader = ResponseReader()
    assert not reader.feed(1, b"HTTP/1.0 200 OK\r\n\r\nabc")
    assert reader.end(2)
    assert (reader.body(), reader.keep_alive) == (b"abc", False)


def test_a_cut_connection_does_not_complete_a_chunked_body():
    reader = ResponseReader()
    reader.feed(1, chunked([b"abc"])[:-5])
    assert not reader.end(2)


def test_an_interim_response_is_passed_over():
    reader = ResponseReader()
    assert reader.feed(1, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")
    assert reader.status == 204


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"x" * 70_000,
     b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc"],
)  # fmt: skip
def test_what_is_not_http_is_refused(data):
    with pytest.raises(WireError):
        ResponseReader().feed(1, data)


def test_an_events_stamp_is_that_of_its_last_byte():
    pieces = [
        Piece(1, b"data: a\n\ndata: b"),
        Piece(2, b"\n"),
        Piece(3, b"\ndata: c\r\n\r\n: note\n\n"),
        Piece(4, b"data: [DONE]"),
    ]
    assert [tuple(event) for event in events(pieces)] == [(1, "a"), (3, "b"), (3, "c"), (4, "[DONE]")]


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12), max_size=6
    ),
    st.data(),
)
def test_events_survive_any_fragmentation(texts, data):
    stream = b"".join(f"data: {text}\n\n".encode() for text in texts)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20))
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [Piece(i, stream[a:b]) for i, (a, b) in enumerate(itertools.pairwise(edges))]
    assert [event.data for event in events(pieces)] == texts


GOOD = chunked([b"data: {}\n\n", b"x" * 50])


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(max_size=3)), max_size=3),
    st.lists(st.integers(1, len(GOOD) + 9), max_size=8),
)
def test_a_damaged_response_has_one_outcome_however_it_is_cut(damage, cuts):
    data = GOOD
    for at, instead in damage:
        data = data[:at] + instead + data[at + 1 :]
    outcomes = []
    for edges in ([], cuts, range(len(data))):
        reader = ResponseReader()
        start, complete, wrong = 0, False, False
        for end in [*sorted({edge for edge in edges if 0 < edge < len(data)}), len(data)]:
            try:
                complete = reader.feed(end, data[start:end])
            except WireError:
                wrong = True
            if complete or wrong:
                break
            start = end
        if not complete and not wrong:
            complete = reader.end(len(data))
        surplus_of_a_length = (
            "content-length" in reader.headers
        )  # whether it is seen depends on the read it came with
        outcomes.append((complete, wrong, reader.status, reader.body()) if not surplus_of_a_length else None)
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(st.binary(max_size=300))
def test_whatever_bytes_come_nothing_else_is_raised(data):
    reader = ResponseReader()
    with contextlib.suppress(WireError):
        reader.feed(1, data)
    reader.end(2)
    assert reader.cut_off()
