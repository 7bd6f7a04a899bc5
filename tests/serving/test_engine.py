"""The same on the real engine and the packaged model."""

import httpx
import pytest

from kvlab.serving.embedded import acquire, running
from kvlab.serving.state import family
from tests.serving.conftest import gone


@pytest.mark.engine
def test_the_real_engine_is_shared_counts_cached_tokens_and_leaves_nothing(alone, folder):
    said = []
    with acquire(say=said.append) as lease:
        members = family(lease.pid)
        assert len(members) > 1
        assert httpx.get(lease.base_url.replace("/v1", "/health")).status_code == 200
        assert httpx.get(f"{lease.base_url}/models").status_code == 401
        headers = {"Authorization": f"Bearer {lease.api_key}"}
        served = httpx.get(f"{lease.base_url}/models", headers=headers).json()["data"][0]
        assert (served["id"], served["max_model_len"]) == (lease.model.served_name, lease.model.max_model_len)

        with acquire(say=said.append) as second:
            assert second.reused
            assert second.pid == lease.pid
        assert lease.alive()

        request = {"model": served["id"], "prompt": list(range(1000, 1100)), "max_tokens": 1}
        used = [
            httpx.post(f"{lease.base_url}/completions", json=request, headers=headers, timeout=120).json()[
                "usage"
            ]
            for _ in range(2)
        ]
        expected = (100 - 1) // lease.block_size * lease.block_size
        assert used[0]["prompt_tokens"] == 100
        assert used[1]["prompt_tokens_details"]["cached_tokens"] == expected
        reset = httpx.post(lease.base_url.replace("/v1", "/reset_prefix_cache"), headers=headers, timeout=60)
        assert reset.status_code == 404
    assert gone(members)
    assert running() == []
    assert any("the server is starting" in line for line in said)
