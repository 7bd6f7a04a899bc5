"""The router in front of replicas."""

import time

import httpx
import pytest

from benchmarks.servers.asking import LONG, cached, stream
from benchmarks.servers.process import FakeServer
from benchmarks.servers.router import Router


@pytest.fixture(scope="module")
def replicas():
    with (
        FakeServer(base_ms=0, itl_ms=20, output_tokens=4) as first,
        FakeServer(base_ms=0, itl_ms=0) as second,
    ):
        yield first, second


def sent(router, *texts):
    with httpx.Client(base_url=router.base_url.removesuffix("/v1"), timeout=10, trust_env=False) as client:
        return [cached(stream(client, text)) for text in texts]


def test_in_turns_a_prompt_is_cold_once_on_each_replica(replicas):
    with Router([one.port for one in replicas]) as router:
        found = sent(router, *["turns " + LONG] * 4)
    assert found[:2] == [0, 0]
    assert min(found[2:]) > 0
    assert router.sent == [2, 2]


def test_sticky_prompts_that_begin_alike_go_to_one_place(replicas):
    with Router([one.port for one in replicas], "sticky") as router:
        found = sent(router, *[f"text {n} " + LONG for n in range(16) for _ in range(2)])
    assert set(found[::2]) == {0}
    assert min(found[1::2]) > 0
    assert min(router.sent) > 0


def test_a_stream_is_passed_on_as_it_comes(replicas):
    body = {
        "model": "fake",
        "messages": [{"role": "user", "content": "one"}],
        "max_tokens": 4,
        "stream": True,
    }
    with (
        Router([replicas[0].port]) as router,
        httpx.stream("POST", f"{router.base_url}/chat/completions", json=body, trust_env=False) as answer,
    ):
        times = [time.monotonic() for line in answer.iter_lines() if line]
    assert times[-1] - times[0] > 0.03  # three gaps of 20 ms


def test_a_replica_that_is_away_is_a_bad_gateway():
    with Router([1]) as router:
        assert httpx.get(f"{router.base_url}/models", trust_env=False).status_code == 502
