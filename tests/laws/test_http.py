"""A law is learned over HTTP, from a server with any law."""

import httpx
import pytest

from benchmarks.servers.process import FakeServer
from kvlab.laws.law import CacheLaw
from kvlab.laws.learn import learn_law
from kvlab.laws.probe import Answer, token_ids


class Client:
    def __init__(self, server):
        self.http = httpx.Client(base_url=server.root_url, timeout=10, trust_env=False)

    def __call__(self, spec):
        body = {"model": "fake", "prompt": token_ids(spec), "max_tokens": 1, "cache_salt": spec.tenant or "x"}
        usage = self.http.post("/v1/completions", json=body).json()["usage"]
        return Answer(usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"])


@pytest.mark.parametrize(
    "law",
    [CacheLaw(1), CacheLaw(128, 1024, 0), CacheLaw(528, grains_off=1), CacheLaw(256, tail_grain_tokens=16)],
)
def test_the_law_of_a_server_is_found_over_http(law):
    import dataclasses

    options = {"base_ms": 0, "itl_ms": 0, "output_tokens": 1, "max_model_len": 8192}
    with FakeServer(**options, law=dataclasses.asdict(law)) as server:
        client = Client(server)
        with client.http:
            found = learn_law(client, max_prompt_tokens=4096)
    assert found.law == law, found.reason
