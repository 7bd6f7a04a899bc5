import pytest

from kvlab.stats import Interval, decide


@pytest.mark.parametrize(
    ("low", "high", "decision"),
    [(0.31, 0.5, "above"), (0.1, 0.29, "below"), (0.2, 0.4, "undecided"), (0.3, 0.3, "undecided"), (None, None, "undecided")],
)  # fmt: skip
def test_a_decision_needs_the_whole_interval_on_one_side(low, high, decision):
    assert decide(Interval(0.3, low, high, 9, 0.95), 0.3) == decision


def test_an_interval_says_what_it_is():
    found = Interval(0.3, 0.2, 0.4, 9, 0.95, method="order statistics", unit="pairs")
    assert (found.label, found.made_by) == ("95 %", "95 %; order statistics, n = 9 pairs")
    found = Interval(0.3, 0.2, 0.4, 9, 0.95, method="t", unit="pairs", assumes="they are independent")
    assert found.label == "95 % if they are independent"
    assert Interval(0.3, None, None, 2, 0.95, "2 pairs").made_by == "no interval: 2 pairs"
