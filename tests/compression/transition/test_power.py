import numpy as np
import pytest

from kvlab.compression.transition.drop import p_exceeds
from kvlab.compression.transition.power import minimum_detectable


def test_a_drop_of_that_size_is_called_in_four_of_five():
    draw = np.random.default_rng(4)
    n, clusters = 60, np.arange(60)
    before = draw.normal(0, 0.4, (n, 1))
    least = minimum_detectable(before, clusters, margin=0.05, level=0.025)
    spread = float(before.std(ddof=1))
    trials = draw.normal(least.drop, spread, (1000, n))
    rate = float((p_exceeds(trials, clusters, 0.05, seed=1) <= 0.025).mean())
    assert rate == pytest.approx(0.8, abs=0.05)


def test_answers_that_never_changed_still_have_a_limit():
    """Ten of a hundred must fall before their number is clear of one in twenty: the spread is that of the drop."""
    least = minimum_detectable(np.zeros((100, 2)), np.arange(100), margin=0.05, level=0.025)
    assert 0.1 < least.drop < 0.2
    more = minimum_detectable(np.zeros((400, 2)), np.arange(400), margin=0.05, level=0.025)
    assert 0.05 < more.drop < least.drop


def test_too_few_contexts_see_nothing_and_say_so():
    assert minimum_detectable(np.zeros((5, 1)), np.arange(5), margin=0.05, level=0.025).drop is None
    assert "5 contexts" in minimum_detectable(np.zeros((5, 1)), np.arange(5), margin=0.05, level=0.025).reason
    assert minimum_detectable(np.empty((0, 1)), np.arange(0), margin=0.05, level=0.025).reason == "no pair"


@pytest.mark.parametrize("contexts", [6, 8, 12])
def test_with_few_contexts_the_printed_drop_is_really_called_or_there_is_none(contexts):
    """A formula for the t-test alone printed 0.705 for six contexts, which were called in 15 %."""
    least = minimum_detectable(np.zeros((contexts, 1)), np.arange(contexts), margin=0.05, level=0.025)
    if least.drop is None:
        assert "contexts" in least.reason
        return
    drops = (np.random.default_rng(6).random((500, contexts)) < least.drop).astype(float)
    called = (p_exceeds(drops, np.arange(contexts), 0.05, seed=3) <= 0.025).mean()
    assert called >= 0.74, "80 %, less three standard errors"
