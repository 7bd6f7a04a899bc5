"""What is tried next where nothing has failed."""

import pytest

from benchmarks.servers.process import FakeServer
from kvlab.endpoints.connect import Identity
from kvlab.experiments.context_limit_probe import ledger, material
from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.search import DOUBLING, STATED, bracket, confirmed, next_size
from tests.experiments.context_limit_probe.test_endpoint import run
from tests.experiments.context_limit_probe.test_ledger import probe

PARAMS = ContextLimitProbeParams()


def states(tokens):
    return Identity(url="u", model="m", max_model_len=tokens)


def search(limit, identity, params=PARAMS):
    probes = [probe(53_000)]
    while (chosen := next_size(probes, params, identity)).size is not None:
        outcome = ProbeOutcome.HELD if chosen.size <= limit else ProbeOutcome.REFUSED
        probes.append(probe(chosen.size, outcome))
        assert len(probes) < 20
    return [each.tokens for each in probes[1:]], bracket(probes), chosen


def test_a_stated_maximum_beyond_the_growth_is_tried_to_the_token():
    tried, found, _ = search(131_071, states(131_072))
    assert tried == [131_071, 131_072]
    assert (found.low, found.failed.tokens) == (131_071, 131_072)


def test_one_that_takes_more_than_it_states_is_doubled():
    tried, found, _ = search(150_000, states(131_072))
    assert tried[:4] == [131_071, 131_072, 131_073, 262_144]
    assert found.failed.tokens - found.low <= 1500


def test_without_a_stated_maximum_it_is_doubled_to_the_ceiling_and_what_was_left_out_is_said():
    tried, found, chosen = search(10**9, None)
    assert tried == [106_000, 212_000, 262_144]
    assert found.failed is None
    assert (chosen.left_out_tokens, "ceiling_tokens=262,144" in chosen.why) == (524_288, True)


def test_a_stated_maximum_above_the_ceiling_is_left_out():
    chosen = next_size([probe(53_000)], PARAMS, states(1_000_000))
    assert (chosen.size, chosen.left_out_tokens) == (None, 999_999)


def test_nobody_waits_for_hours():
    slow = [probe(10_000, ttft_ms=60_000.0, cached_tokens=5000)]
    chosen = next_size(slow, PARAMS, states(131_072))
    assert chosen.size is None
    assert chosen.left_out_tokens == 131_071
    assert "longest_wait_s=600" in chosen.why
    quick = [probe(10_000, ttft_ms=60.0, cached_tokens=5000)]
    assert next_size(quick, PARAMS, states(131_072)).why == STATED
    assert next_size(quick, PARAMS, None).why == DOUBLING


def test_where_nothing_was_accepted_there_is_nothing_to_double():
    assert next_size([], PARAMS, states(8192)).size == 8191
    assert next_size([], PARAMS, None).size is None


@pytest.mark.parametrize("outcome", [ProbeOutcome.SERVER_ERROR, ProbeOutcome.RUN_ENDED])
def test_a_failure_without_a_cause_bounds_nothing_until_it_comes_again(outcome):
    once = [probe(100), probe(300, outcome), probe(900, ProbeOutcome.REFUSED)]
    assert bracket(confirmed(once)).failed.tokens == 900
    assert bracket(confirmed([*once, probe(300, outcome)])).failed.tokens == 300
    assert bracket(confirmed([*once, probe(300, ProbeOutcome.HELD)])).low == 300


def test_a_long_context_server_is_probed_to_its_limit_and_so_is_its_quality(point_at, monkeypatch):
    monkeypatch.setattr(material, "is_answered", lambda text, code: True)
    with FakeServer(max_model_len=12_000, base_ms=1, itl_ms=0.1) as found:
        point_at(found)
        _, probes, summary = run(replay_exchanges=0, cold_tokens=[], needles=1)
    assert (summary.results["largest_accepted_tokens"], summary.results["apart_tokens"]) == (11_999, 1)
    assert max(each.tokens for each in probes if each.target == ledger.QUALITY) > 11_500
    assert summary.verdict == "PASS"


def test_what_was_not_tried_is_in_the_report(point_at):
    with FakeServer(max_model_len=100_000, base_ms=1, itl_ms=0.1) as found:
        point_at(found)
        _, _, summary = run(replay_exchanges=0, cold_tokens=[], ceiling_tokens=9000)
    assert summary.verdict == "INVALID"
    assert any(
        "99,999 tokens were not tried" in line and "ceiling_tokens" in line for line in summary.limitations
    )
