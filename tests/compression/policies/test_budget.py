import pytest

from kvlab.compression.policies import Budget
from kvlab.errors import InputError


@pytest.mark.parametrize(("value", "label", "kept"), [(1, "1", 100), (0.5, "0.5", 50), (64, "64 tokens", 64)])
def test_at_most_one_is_a_fraction_and_above_it_a_number_of_entries(value, label, kept):
    budget = Budget.of(value)
    assert (budget.label, budget.n_kept(100)) == (label, kept)


@pytest.mark.parametrize("value", [0, -0.5, 1.5, True, "0.5", None, float("nan"), float("inf")])
def test_what_is_no_budget_is_refused_in_one_line(value):
    with pytest.raises(InputError, match=r"^budgets: .*fraction in \(0, 1\]") as error:
        Budget.of(value)
    assert "\n" not in str(error.value)


def test_a_fraction_keeps_what_kvpress_keeps_at_the_ratio_that_a_person_would_write():
    for percent in range(1, 100):
        ratio = percent / 100  # kvpress: compression_ratio
        budget = Budget.of((100 - percent) / 100)
        assert budget.ratio == ratio
        for n in (1, 7, 50, 96, 100, 949, 8192):
            assert budget.n_kept(n) == max(1, int(n * (1 - ratio)))


def test_floating_point_is_kvpress_too():
    assert Budget.of(0.1).n_kept(100) == 9


def test_a_context_that_is_not_longer_than_the_budget_is_kept_whole():
    assert Budget.of(512).n_kept(300) == 300
    assert Budget.of(512).keeps_all(512)
    assert not Budget.of(512).keeps_all(513)
    assert Budget.of(1.0).keeps_all(7)
    assert not Budget.of(0.99).keeps_all(7)
