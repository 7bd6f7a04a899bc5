"""A rate that falls with size, told from a machine that is slow now and then."""

import numpy as np
import pandas as pd
import pytest

from kvlab.experiments.batch_benchmark import consistency, criteria
from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
from kvlab.stats import steady
from tests.stats.test_steady import closed_loop

PARAMS = BatchBenchmarkParams(sizes=[16, 32, 64], strategies=["shared_prefix", "conversation"])  # margin 0.2


def cell(size, values, strategy="shared_prefix"):
    state = steady.Steady(0.0, 1.0, 2.0, pd.DataFrame({"s_per_request": values}))
    return {"strategy": strategy, "size": size, "state": "complete", "steady": state,
            "steady_requests_per_s": 1 / float(np.mean(values)) if len(values) else None}  # fmt: skip


def windows(mean, count=12, scatter=0.02, seed=0):
    return mean * (1 + scatter * np.random.default_rng(seed).standard_normal(count))


def judged(*cells):
    return criteria.consistent(consistency.changes(cells, PARAMS), PARAMS)


def test_a_steady_rate_is_consistent():
    check = judged(cell(16, windows(0.1)), cell(32, windows(0.101, seed=1)), cell(64, windows(0.102, seed=2)))
    assert check.passed, check.seen
    assert "shared_prefix, 16 to 64 requests" in check.seen


def test_two_falls_within_the_margin_are_one_beyond_it():
    check = judged(cell(16, windows(0.1)), cell(32, windows(0.123, seed=1)), cell(64, windows(0.152, seed=2)))
    assert check.passed is False
    assert "slower: -34" in check.seen


def test_a_faster_larger_size_is_no_fall():
    assert judged(cell(16, windows(0.2)), cell(64, windows(0.1, seed=1))).passed


def test_what_windows_cannot_tell_is_no_failure():
    wide = judged(cell(16, windows(0.1, 6, 0.3)), cell(64, windows(0.12, 6, 0.3, seed=1)))
    assert wide.passed is None
    assert "too uncertain to say" in wide.seen
    few = judged(cell(16, windows(0.1, 3)), cell(64, windows(0.2)), cell(32, []))
    assert few.passed is None
    assert "fewer than two sizes have a steady state of 4 windows" in few.seen
    assert judged().passed is None


def test_strategies_are_not_compared_with_one_another():
    assert consistency.changes([cell(16, windows(0.1)), cell(64, windows(0.3), "conversation")], PARAMS) == []


def smoke_run(draw, factor, length_s, every_s, fall):
    """The trials of a smoke run on a machine that is ``factor`` times slower for a while, now and then."""
    starts = np.cumsum(draw.exponential(every_s, 40))
    knots = np.sort(np.concatenate([starts, starts + length_s]))
    inside = (knots[:-1, None] >= starts) & (knots[:-1, None] < starts + length_s)
    work = np.concatenate([[0], np.cumsum(np.diff(knots) * np.where(inside.any(1), 1 / factor, 1.0))])
    now, cells = float(draw.uniform(0, 300)), []
    for size in PARAMS.sizes:
        slower = (1 - fall) ** -(np.log2(size / 16) / 2)
        for strategy, tau_s in (("shared_prefix", 0.135), ("conversation", 0.2)):
            rows = closed_loop(size, 4, 4 * tau_s * slower, 4 * tau_s * slower, scatter=0.1)
            for name in ("sent_ns", "done_ns"):
                done_work = rows[name].to_numpy(dtype=float) / 1e9 + now
                rows[name] = (np.interp(done_work, work, knots) * 1e9).astype("int64")
            state = steady.find(rows, 4)
            now = done_work.max() + 20  # other strategies' trials lie between
            rate = 1 / state.windows["s_per_request"].mean() if len(state.windows) else None
            cells.append({"strategy": strategy, "size": size, "state": "complete", "steady": state, "steady_requests_per_s": rate})  # fmt: skip
    return cells


@pytest.mark.parametrize("spells", [(4, 5, 120), (3, 10, 60)])
def test_slow_spells_of_the_machine_fail_no_run_and_hide_no_fall(spells):
    draw = np.random.default_rng(3)
    sound = [judged(*smoke_run(draw, *spells, fall=0.0)).passed for _ in range(15)]
    assert sound.count(False) == 0
    falling = [judged(*smoke_run(draw, *spells, fall=0.5)).passed for _ in range(15)]
    assert falling.count(False) >= 0.8 * 15
