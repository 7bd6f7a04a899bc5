import heapq

import numpy as np
import pandas as pd
import pytest

from kvlab.experiments.batch_benchmark.estimate import quantile
from kvlab.stats import steady


def closed_loop(requests, concurrency, service_s=0.1, slow_first_s=1.0, scatter=0.0):
    """Rows of a closed loop: a slow first wave, then every answer is followed by the next request."""
    draw = np.random.default_rng(requests)
    free = [(0.0, place) for place in range(concurrency)]
    rows = []
    for number in range(requests):
        at, place = heapq.heappop(free)
        took = (slow_first_s if number < concurrency else service_s) * (1 + scatter * draw.uniform(-1, 1))
        took += 0.0 if scatter else 0.001 * place
        rows.append((at, at + took))
        heapq.heappush(free, (at + took, place))
    frame = pd.DataFrame(rows, columns=["sent_ns", "done_ns"]).mul(1e9).astype("int64")
    return frame.astype({"done_ns": "Int64"}).assign(session_id=1)


def test_start_up_and_drain_are_cut_off():
    found = steady.find(closed_loop(400, 4), 4)
    assert found.start_s == pytest.approx(1.003, abs=0.001)
    assert found.end_s < found.total_s - 0.09
    assert found.windows["s_per_request"].mean() == pytest.approx(0.1 / 4, rel=0.03)
    assert len(found.windows) == 19
    assert set(found.windows["requests"] % 4) == {0}, "whole rounds"


def test_too_few_requests_have_no_steady_state():
    found = steady.find(closed_loop(8, 4), 4)
    assert len(found.windows) == 0
    assert "fewer than 2 windows" in found.reason
    assert found.total_s > 1


def test_a_part_of_a_round_is_no_window():
    rows = closed_loop(100, 32)
    found = steady.find(rows, 32)
    assert len(found.windows) == 0
    assert "fewer than 2 windows of 32" in found.reason
    assert set(steady.find(closed_loop(1000, 32), 32).windows["requests"] % 32) == {0}


def test_an_interrupted_trial_has_none_and_its_time_is_that_of_its_sessions():
    rows = closed_loop(100, 4)
    rows.loc[50:, "session_id"] = 2
    found = steady.find(rows, 4)
    assert found.reason == "the trial was interrupted"
    assert 0 < found.total_s < 10


def test_nothing_is_nothing():
    assert steady.find(closed_loop(4, 4).iloc[:0], 4).reason == "nothing was answered"


@pytest.mark.parametrize(("n", "known"), [(9, []), (10, [0.5]), (50, [0.5, 0.9]), (500, [0.5, 0.9, 0.99])])
def test_a_quantile_needs_values_beyond_it(n, known):
    assert [q for q in (0.5, 0.9, 0.99) if quantile(np.arange(n), q) is not None] == known
