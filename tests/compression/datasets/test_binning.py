import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlab.compression.datasets import binning
from kvlab.errors import InputError

lengths = st.lists(st.integers(0, 50), min_size=1, max_size=60)


@given(lengths, st.integers(1, 12))
def test_exactly_n_edges_and_every_example_in_a_bin(values, n_bins):
    edges = binning.edges(values, n_bins)
    assert len(edges) == n_bins
    assert edges == sorted(edges)
    assert edges[-1] == max(values)
    assert set(edges) <= set(values)
    for value in values:
        k = binning.index(value, edges)
        assert value <= edges[k]
        assert k == 0 or value > edges[k - 1]


@given(lengths, st.integers(1, 12))
def test_the_edges_are_numpys_quantiles(values, n_bins):
    # At exact ranks numpy's own arithmetic may fall to either side: then any of the two is one.
    for k, edge in enumerate(binning.edges(values, n_bins)):
        low, high = (
            np.quantile(values, min(1, max(0, (k + 1) / n_bins + e)), method="inverted_cdf")
            for e in (-1e-9, 0)
        )
        assert low <= edge <= max(high, low)


@given(st.lists(st.integers(0, 10_000), min_size=10, max_size=60, unique=True))
def test_bins_of_distinct_lengths_differ_by_one_at_most(values):
    edges = binning.edges(values, 5)
    counts = np.bincount([binning.index(value, edges) for value in values], minlength=5)
    assert counts.max() - counts.min() <= 1


def test_fewer_distinct_lengths_than_bins_leave_bins_empty():
    edges = binning.edges([7, 7, 7, 9], 4)
    assert edges == [7, 7, 7, 9]
    assert [binning.index(value, edges) for value in (7, 9)] == [0, 3]


def test_what_cannot_be_binned_is_refused():
    for values, n_bins, field in (([], 3, "dataset"), ([1], 0, "n_bins: 0")):
        with pytest.raises(InputError, match=field):
            binning.edges(values, n_bins)
    with pytest.raises(InputError, match="token_len: 10"):
        binning.index(10, [5, 9])
