from itertools import islice, pairwise

import pytest

from kvlab.timing.arrivals import Arrivals


def offsets(count, **plan):
    return list(islice(Arrivals(**plan).offsets_s(), count))


def test_constant_arrivals_are_evenly_apart():
    assert offsets(4, mode="constant", rate_per_s=4.0) == [0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_have_the_rate_and_are_the_same_for_a_seed():
    found = offsets(5001, mode="poisson", rate_per_s=50.0, seed=3)
    assert found == offsets(5001, mode="poisson", rate_per_s=50.0, seed=3)
    assert found != offsets(5001, mode="poisson", rate_per_s=50.0, seed=4)
    gaps = [b - a for a, b in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.02, rel=0.05)
    spread = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert spread == pytest.approx(mean, rel=0.1), "exponential gaps scatter as much as they are long"


def test_a_ramp_reaches_its_rate_and_keeps_it():
    found = offsets(400, mode="ramp", ramp_from_per_s=0.0, rate_per_s=20.0, ramp_s=10.0)
    assert sum(t < 10 for t in found) == 100  # the area under the ramp
    assert sum(10 <= t < 15 for t in found) == 100
    assert sum(t < 5 for t in found) == pytest.approx(25, abs=1)


def test_a_ramp_that_does_not_rise_is_constant():
    assert offsets(4, mode="ramp", ramp_from_per_s=4.0, rate_per_s=4.0, ramp_s=10.0) == [0, 0.25, 0.5, 0.75]
