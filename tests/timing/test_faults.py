"""The catalogue of faults through both transports: one outcome, in time, in the server's own words, without the key.

All faults run once, many at a time in the pump and a few in the client; each test looks at one.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from benchmarks.servers.catalogue import FAULTS, KEY, FaultServer
from kvlab.redact import Redactor
from kvlab.timing.client import Client
from kvlab.timing.pump import Exchange, Pump
from kvlab.timing.request import Target, interpret

TIMEOUT_S, SLACK_S, TOGETHER = 1.5, 8.0, 48
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 4}
KEY_TEXT = KEY.decode()


def target(url):
    return Target(url, {"Authorization": f"Bearer {KEY_TEXT}"}, TIMEOUT_S, max_bytes=2**20)


redact = Redactor([KEY_TEXT])


def by_client(url, name):
    """One fault, and a good request after it by the same client."""
    began = time.monotonic()
    with Client(target(url)) as client:
        measured = client.measure(f"/{name}/v1/chat/completions", BODY, name)
        took_s = time.monotonic() - began
        after = client.measure("/good/v1/chat/completions", BODY, "after")
    return measured.redacted(redact), took_s, after


def by_pump(url):
    """Many faults at once, then as many good requests on the connections that are left."""
    where, over = target(url), {}

    def finished(exchange):
        measured = interpret(where, exchange.reader, exchange.transfer)
        over[exchange.key] = (measured.redacted(redact), time.monotonic() - began[exchange.key])

    pump, began = Pump(where, finished), {}
    names = sorted(FAULTS, key=lambda name: FAULTS[name].want != "TIMEOUT")  # those that wait, wait together
    for at in range(0, len(names), TOGETHER):
        some = names[at : at + TOGETHER]
        _through(pump, where, began, {name: name for name in some})
        _through(pump, where, began, {f"after {name}": "good" for name in some})
    pump.close()
    return over, pump


def _through(pump, where, began, paths):
    for name, path in paths.items():
        request = where.encode(f"/{path}/v1/chat/completions", BODY, {"X-Request-Id": name.encode().hex()})
        began[name] = time.monotonic()
        pump.send(Exchange(name, request, 0))
    limit = time.monotonic() + 60
    while pump.in_flight and time.monotonic() < limit:
        pump.poll(0.05)


@pytest.fixture(scope="module")
def outcomes():
    with FaultServer(FAULTS) as server, ThreadPoolExecutor(12) as threads:
        pumped, pump = by_pump(server.url)
        single = dict(zip(FAULTS, threads.map(lambda name: by_client(server.url, name), FAULTS), strict=True))
        yield single, pumped, pump


def kind(measured):
    return "ok" if measured.failure is None else str(measured.failure.error_type)


@pytest.mark.parametrize("name", FAULTS)
def test_both_transports_make_the_same_of_a_fault_and_the_right_thing(outcomes, name):
    single, pumped, _ = outcomes
    fault, (one, one_s, after), (many, many_s) = FAULTS[name], single[name], pumped[name]
    assert (kind(one), kind(many)) == (fault.want, fault.want), (one.failure, many.failure)
    assert max(one_s, many_s) < TIMEOUT_S + SLACK_S
    for measured in (one, many):
        text = measured.generation.text if measured.failure is None else measured.failure.message
        assert fault.says in text
        assert text or fault.want == "ok"
        assert KEY_TEXT not in repr(measured)
        assert "Traceback" not in text
        if measured.failure is not None:
            assert 0 < len(measured.failure.message) <= 500
        if fault.untimed:
            assert measured.stamps.ttft_ms is None
            assert measured.stamps.untimed
    assert one.http_status == many.http_status
    assert (one.usage, one.generation and one.generation.text) == (
        many.usage,
        many.generation and many.generation.text,
    )
    assert kind(after) == "ok", after.failure


def test_what_comes_after_a_fault_is_well_in_the_pump_too(outcomes):
    _, pumped, pump = outcomes
    assert len(pumped) == 2 * len(FAULTS)
    assert {kind(measured) for name, (measured, _) in pumped.items() if name.startswith("after")} == {"ok"}
    assert (pump.in_flight, pump.held_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("retry_after_seconds", 7),
        ("retry_after_date", 9),
        ("retry_after_odd", None),
        ("retry_after_negative", None),
    ],
)
def test_what_the_server_asks_to_wait_is_kept(outcomes, name, seconds):
    single, pumped, _ = outcomes
    assert (single[name][0].failure.retry_after_s, pumped[name][0].failure.retry_after_s) == (
        seconds,
        seconds,
    )


def test_the_catalogue_is_as_large_as_it_says():
    assert len(FAULTS) >= 120
