"""The quick look at a response must find the same end as the full reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlab.timing.incoming import Incoming
from kvlab.timing.response import ResponseReader

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"


def chunked(*parts):
    return HEAD + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


@given(
    st.lists(
        st.sampled_from([b"a", b"data: 10\r\n\r\n", b"0\r\n\r\n", b"x" * 300, b"\r\n0\r\n\r\n"]), max_size=5
    ),
    st.lists(st.integers(1, 400), max_size=12),
)
def test_it_ends_with_the_read_that_completes_it_however_the_bytes_are_cut(parts, cuts):
    whole = chunked(*parts)
    quick, full, at = Incoming(), ResponseReader(), 0
    for size in [*cuts, len(whole)]:
        data = whole[at : at + size]
        if not data:
            break
        at += size
        assert quick.feed(at, data) == full.feed(at, data)
    assert quick.body() == full.body()
    assert (quick.status, quick.keep_alive) == (200, True)


def test_a_body_of_a_known_length_ends_there():
    incoming = Incoming()
    assert not incoming.feed(1, b"HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\nconnection: close\r\n\r\nab")
    assert incoming.feed(2, b"cd")
    assert (incoming.status, incoming.keep_alive, incoming.body()) == (429, False, b"abcd")


def test_a_body_without_a_length_ends_with_its_connection():
    assert not Incoming().feed(1, b"HTTP/1.1 200 OK\r\n\r\nabc")


@pytest.mark.parametrize("junk", [b"SSH-2.0-x\r\n\r\n\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_what_is_no_plain_response_is_refused(junk):
    with pytest.raises(ValueError, match="not a plain HTTP"):
        Incoming().feed(1, junk)
