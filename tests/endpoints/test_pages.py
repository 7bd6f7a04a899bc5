"""Pages within bounds, whatever stands on them."""

import time

import httpx
import pytest

from kvlab.endpoints.pages import error_message, fetch


def client(*answers):
    """A client that is given these answers in turn."""
    turns = iter(answers)

    def handle(request):
        answer = next(turns)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return httpx.Client(transport=httpx.MockTransport(handle))


class Drip(httpx.SyncByteStream):
    """A body that never ends."""

    def __iter__(self):
        while True:
            time.sleep(0.02)
            yield b" "


def test_a_page_without_end_is_cut_by_bytes_and_by_time():
    large = fetch(client(httpx.Response(200, content=b"x" * 5000)), "http://x/", max_bytes=1000)
    assert (large.ok, large.why) == (False, "its answer is above 1,000 bytes")
    began = time.monotonic()
    late = fetch(client(httpx.Response(200, stream=Drip())), "http://x/", timeout_s=0.2)
    assert not late.ok
    assert "within 0.2 s" in late.why
    assert time.monotonic() - began < 5


def test_a_dropped_connection_is_opened_anew_once():
    gone = httpx.RemoteProtocolError("Server disconnected without sending a response.")
    assert fetch(client(gone, httpx.Response(200, content=b"{}")), "http://x/").ok
    twice = fetch(client(gone, gone), "http://x/")
    assert twice.status is None
    assert "closed the connection" in twice.why


def test_a_busy_server_is_asked_again_when_it_says():
    waits = []
    busy = httpx.Response(503, headers={"Retry-After": "7"})
    found = fetch(client(busy, httpx.Response(429), httpx.Response(200)), "http://x/", sleep=waits.append)
    assert found.ok
    assert waits == [7.0, 0.5 * 2]
    patient = fetch(client(busy), "http://x/", patience_s=5.0, sleep=waits.append)
    assert patient.status == 503
    assert len(waits) == 2


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[1]", b"<html>", b"\xff\xfe", b"[" * 100_000, b'{"data":', b'"text"', b"5"]
)
def test_what_is_no_object_is_an_empty_one(body):
    page = fetch(client(httpx.Response(200, content=body)), "http://x/")
    assert page.object() == {}
    assert isinstance(page.message(), str)


@pytest.mark.parametrize("url", ["http://", "http://[::1/", "nonsense", "http://x:99999/"])
def test_an_address_that_cannot_be_asked_is_an_answer_too(url):
    page = fetch(httpx.Client(), url, timeout_s=1)
    assert page.status is None
    assert page.why


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"error": {"message": "no"}}, "no"),
        ({"error": "no"}, "no"),
        ({"message": "no", "type": "x"}, "no"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"msg": "field required"}]}, '[{"msg": "field required"}]'),
        ([1], "[1]"),
        (None, "as it came"),
    ],
)
def test_what_a_server_says_is_found_in_the_usual_shapes(content, said):
    assert error_message(content, "as it  came") == said
