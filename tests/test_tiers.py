"""Cached tokens of the engine's own cache and of an external tier: told apart, never summed."""

import pytest

from benchmarks.servers.process import FakeServer
from kvlab import api, tiers
from kvlab.endpoints.metrics import Scrape, difference

QUICK = {"base_ms": 0, "itl_ms": 0, "output_tokens": 1}
SWEEP = {"profile": "smoke", "token_targets": [700], "repeats": 2, "position_controls": 0, "max_tokens": 2}


def page(finished, local=None, external=None):
    lines = [f"vllm:e2e_request_latency_seconds_count {finished}"]
    for source, tokens in (("local_cache_hit", local), ("external_kv_transfer", external)):
        if tokens is not None:
            lines.append(f'vllm:prompt_tokens_by_source_total{{source="{source}"}} {tokens}')
    return Scrape.parse("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ((0, 0), (64, 32), (64, 32)),
        ((5, 5), (5, 5), (0, 0)),
        ((0, None), (64, None), (64, None)),
        ((None, None),) * 2 + ((None, None),),
    ],
)
def test_the_counters_of_two_tiers_are_two_numbers_and_what_is_not_counted_is_none(old, new, told):
    view = difference(page(1, *old), page(2, *new))
    assert (view.local_tokens, view.external_tokens) == told


@pytest.mark.parametrize("local", [-1, 320, 0])
def test_a_report_tells_the_tiers_apart_where_there_are_two(point_at, local):
    with FakeServer(**QUICK, local_tokens=local) as server:
        point_at(server)
        run = api.open("token_sweep", SWEEP)
        for trial in run.pending():
            run.measure(trial)
        run.finish()
        cached = [one["cached_tokens"] for one in server.truth() if "/hit" in one["request_id"]]
    text = (run.folder / "report.md").read_text()
    found = [table.stored() for table in run.findings().tables if table.name == "tiers"]
    if local < 0:
        assert not found
        assert tiers.TITLE not in text
        return
    assert tiers.TITLE in text
    assert found[0].rows[-1][2:] == [len(cached) * local, sum(cached) - len(cached) * local]
    assert "hold a transfer" in text
