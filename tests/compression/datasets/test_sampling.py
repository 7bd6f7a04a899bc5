import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlab.compression.datasets.sampling import Entry, Shortfall, focus_transition, pinned, uniform
from kvlab.errors import InputError

ENTRIES = [Entry(f"e{i:02}", i // 10, 100 + i) for i in range(30)]


def per_bin(sample, bins=3):
    return [sum(entry.bin_idx == b for entry in sample.entries) for b in range(bins)]


@given(st.integers(1, 12), st.integers(0, 5))
def test_uniform_takes_as_many_of_every_bin_or_says_what_is_missing(number, seed):
    sample = uniform(ENTRIES, 4, number, seed=seed)
    assert per_bin(sample, 4) == [min(number, 10)] * 3 + [0]
    assert sample.shortfalls[-1] == Shortfall(3, number, 0)
    assert len(sample.shortfalls) == (4 if number > 10 else 1)
    assert sample.entries == sorted(sample.entries, key=lambda entry: (entry.token_len, entry.example_id))


def test_a_larger_sample_contains_the_smaller_and_order_does_not_matter():
    small, large = uniform(ENTRIES, 3, 2, seed=1), uniform(reversed(ENTRIES), 3, 5, seed=1)
    assert set(small.entries) < set(large.entries)
    assert uniform(ENTRIES, 3, 5, seed=1) == large != uniform(ENTRIES, 3, 5, seed=2)


def test_focus_takes_more_where_it_is_asked_to():
    sample = focus_transition(ENTRIES, 3, focus_bins=[1], base_n_per_bin=2, focus_n_per_bin=7, seed=1)
    assert per_bin(sample) == [2, 7, 2]
    assert set(uniform(ENTRIES, 3, 2, seed=1).entries) <= set(sample.entries)
    with pytest.raises(InputError, match="focus_bins: 3 is no bin"):
        focus_transition(ENTRIES, 3, focus_bins=[3], base_n_per_bin=2, focus_n_per_bin=7, seed=1)


def test_pinned_examples_are_taken_as_named():
    assert [entry.example_id for entry in pinned(ENTRIES, ["e21", "e03", "e03"]).entries] == ["e03", "e21"]
    with pytest.raises(InputError, match="pinned: 'gone' is none of the 30 examples"):
        pinned(ENTRIES, ["e01", "gone"])
