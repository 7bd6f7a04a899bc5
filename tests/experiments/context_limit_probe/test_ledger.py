import pytest

from kvlab.endpoints.connect import Identity
from kvlab.experiments.context_limit_probe.in_process import forbidden
from kvlab.experiments.context_limit_probe.ledger import Ledger, Probe
from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.search import Bracket, bracket, confirmed, first_loss, next_size
from kvlab.store.database import Database
from tests.store.test_database import fill

MIB = 2**20


def probe(tokens, outcome=ProbeOutcome.HELD, target="endpoint", session=1, trial="t0", **detail):
    return Probe(tokens, session, trial, target, tokens, "growth", outcome, detail)


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "run.sqlite", create=True) as found:
        fill(found)
        yield found


def test_a_size_is_in_the_database_before_it_is_tried(database):
    first = Ledger(database, 1)
    first.end(first.begin("t0", "float32", 100, "growth"), ProbeOutcome.HELD, rss_bytes=5)
    first.begin("t0", "float32", 200, "growth")  # and here everything is killed
    assert [found.outcome for found in first.probes()] == [ProbeOutcome.HELD, None]
    second = Ledger(database, 2)
    assert [found.outcome for found in second.probes("float32")] == [
        ProbeOutcome.HELD,
        ProbeOutcome.RUN_ENDED,
    ]
    assert second.probes("endpoint") == []
    assert second.probes()[0].detail == {"rss_bytes": 5}


def test_what_was_not_really_tried_is_forgotten(database):
    found = Ledger(database, 1)
    found.withdraw(found.begin("t0", "endpoint", 100, "growth"))
    assert found.probes() == []


def test_the_servers_own_count_replaces_the_planned_one(database):
    found = Ledger(database, 1)
    found.end(found.begin("t0", "endpoint", 100, "growth"), ProbeOutcome.HELD, tokens=98)
    assert found.probes()[0].tokens == 98


def test_the_bracket_is_the_largest_held_and_the_smallest_larger_failure():
    found = bracket(
        [
            probe(100),
            probe(50, ProbeOutcome.TIMEOUT),
            probe(400, ProbeOutcome.REFUSED),
            probe(300, ProbeOutcome.REFUSED),
        ]
    )
    assert (found.low, found.failed.tokens) == (100, 300)
    assert bracket([]) == Bracket(None, None)
    assert bracket([probe(300, ProbeOutcome.REFUSED)]).low == 0
    twice = bracket([probe(300, ProbeOutcome.RUN_ENDED), probe(300, ProbeOutcome.OUT_OF_MEMORY)])
    assert twice.failed.outcome is ProbeOutcome.OUT_OF_MEMORY


def test_a_run_that_ended_during_a_probe_is_no_limit_of_a_server_but_twice_is():
    once = [probe(100), probe(300, ProbeOutcome.RUN_ENDED), probe(900, ProbeOutcome.REFUSED)]
    assert bracket(confirmed(once)).failed.tokens == 900
    assert bracket(confirmed([*once, probe(300, ProbeOutcome.RUN_ENDED)])).failed.tokens == 300


def search(limit, high, stated, tolerance):
    """Bisect on a server that holds `limit` tokens. Returns the lengths that were tried."""
    params = ContextLimitProbeParams(resolution_tokens=tolerance)
    identity = Identity(url="u", model="m", max_model_len=stated)
    probes, tried = [probe(0), probe(high, ProbeOutcome.REFUSED)], []
    while (tokens := next_size(probes, params, identity).size) is not None:
        assert tokens not in tried
        tried.append(tokens)
        probes.append(probe(tokens, ProbeOutcome.HELD if tokens <= limit else ProbeOutcome.REFUSED))
    found = bracket(probes)
    assert found.low <= limit < found.failed.tokens
    return tried, found.failed.tokens - found.low


def test_a_stated_maximum_is_tried_at_once_and_exactly():
    assert search(8191, 10_000, 8192, 100) == ([8192, 8191], 1)
    assert search(8192, 10_000, 8192, 100) == ([8192, 8193], 1)


def test_a_stated_maximum_that_is_a_lie_costs_a_step():
    tried, width = search(2048, 10_000, 8192, 1)
    assert width == 1
    assert tried[0] == 8192
    assert len(tried) <= 2 + 14


def test_without_one_it_is_halved_down_to_the_tolerance():
    tried, width = search(4321, 10_000, None, 1)
    assert (len(tried) <= 14, width) == (True, 1)
    tried, width = search(4321, 10_000, None, 64)
    assert width <= 64
    assert len(tried) <= 8


def test_quality_ends_at_its_first_loss_however_lucky_a_later_answer_is():
    lost, lucky = ProbeOutcome.QUALITY_LOST, ProbeOutcome.HELD
    assert first_loss([probe(300, lost), probe(611, lost), probe(1133, lucky)]).held is None
    found = first_loss([probe(200), probe(300, lost), probe(611), probe(1133, lost)])
    assert (found.low, found.failed.tokens) == (200, 300)
    assert first_loss([probe(200), probe(100)]) == Bracket(probe(200), None)


@pytest.mark.parametrize(
    "outcome", [ProbeOutcome.OUT_OF_MEMORY, ProbeOutcome.CHILD_DIED, ProbeOutcome.TIMEOUT]
)
def test_what_killed_a_child_is_not_tried_again(outcome):
    held = [probe(size, grown_bytes=size * MIB) for size in (10, 20, 30)]
    assert forbidden([*held, probe(40, outcome)], 35 * MIB) == 40
    assert forbidden(held, 35 * MIB) is None


def test_what_the_run_ended_in_is_not_tried_again_unless_memory_was_far_away():
    held = [probe(10, grown_bytes=10 * MIB), probe(20, grown_bytes=20 * MIB)]
    assert forbidden([*held, probe(30, ProbeOutcome.RUN_ENDED)], 35 * MIB) == 30
    assert forbidden([*held, probe(30, ProbeOutcome.RUN_ENDED)], 100 * MIB) is None
    assert forbidden([probe(10, ProbeOutcome.RUN_ENDED)], 35 * MIB) is None, "it had hardly begun"


def test_what_the_run_ended_in_twice_is_not_tried_a_third_time():
    """As where a container's limit, which nobody sees, is below the cap."""
    held = [probe(10, grown_bytes=10 * MIB), probe(20, grown_bytes=20 * MIB)]
    twice = [*held, probe(30, ProbeOutcome.RUN_ENDED), *held, probe(30, ProbeOutcome.RUN_ENDED, session=2)]
    assert forbidden(twice, 1000 * MIB) == 30
