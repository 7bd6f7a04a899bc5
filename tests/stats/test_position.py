import numpy as np
import pytest

from kvlab.stats import decide
from kvlab.stats.position import corrected_reduction, position_effect


def world(draw, n, controls, saving=0.0, second=0.12, noise=0.15):
    """Pairs and control pairs in which every second request takes ``second`` less, and a hit ``saving`` of the rest."""
    cold, first = draw.lognormal(5, 0.3, n), draw.lognormal(5, 0.3, controls)
    hit = cold * (1 - second) * (1 - saving) * draw.lognormal(0, noise, n)
    return cold, hit, first, first * (1 - second) * draw.lognormal(0, noise, controls)


@pytest.mark.parametrize("matched", [False, True])
def test_a_second_place_without_a_cache_is_no_saving(matched):
    draw, passed, uncorrected = np.random.default_rng(1), 0, 0
    for _ in range(200):
        cold, hit, first, second = world(draw, 12, 12)
        passed += decide(corrected_reduction(cold, hit, first, second, matched=matched), 0.0) == "above"
        uncorrected += decide(position_effect(cold, hit), 0.0) == "above"
    assert passed / 200 <= 0.05
    assert uncorrected / 200 > 0.3, "what it controls for"


def test_a_saving_beside_it_is_found_and_measured():
    draw, inside, found = np.random.default_rng(2), 0, 0
    for _ in range(100):
        made = corrected_reduction(*world(draw, 15, 10, saving=0.5))
        inside += made.low is None or made.low <= 0.5 <= made.high
        found += decide(made, 0.2) == "above"
    assert inside >= 90
    assert found >= 88, "neighbours look alike by luck in one of twenty"


def test_without_enough_controls_there_is_no_interval_and_the_reason():
    made = corrected_reduction(*world(np.random.default_rng(3), 12, 5))
    assert (made.low, made.n) == (None, 12)
    assert "position control: 5 control pairs: an interval at 95% needs 6" in made.reason
    assert corrected_reduction([1.0] * 8, [0.5] * 8, [], []).estimate is None
