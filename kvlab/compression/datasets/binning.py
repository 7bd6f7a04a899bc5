"""Length bins: quantiles of the token counts."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from kvlab.errors import InputError


def edges(lengths_tokens: Sequence[int], n_bins: int) -> list[int]:
    """Return exactly ``n_bins`` upper edges in tokens, ascending; the last is the longest length.

    Edge k is the ``(k + 1) / n_bins`` quantile by the inverse of the empirical distribution (numpy's
    ``inverted_cdf``): always a length that occurs. Bin k holds the lengths above edge k - 1 up to
    and including edge k; the first reaches down to 0. Ties stay together: with fewer distinct
    lengths than bins some edges are equal, and all bins of an edge but the first are empty.

    Raises:
        InputError: There is nothing to bin, or ``n_bins`` is below 1.
    """
    if n_bins < 1:
        raise InputError("n_bins", n_bins, "must be at least 1")
    if not lengths_tokens:
        raise InputError("dataset", None, "has no examples to put into bins; check its filters")
    ordered = sorted(lengths_tokens)
    # Rank ceil((k + 1) n / n_bins), in integers: floats would move an edge now and then.
    return [ordered[-(-(k + 1) * len(ordered) // n_bins) - 1] for k in range(n_bins)]


def index(length_tokens: int, bin_edges: Sequence[int]) -> int:
    """Return the bin of a length: the first whose upper edge is not below it.

    Raises:
        InputError: It is longer than the last edge, so it belongs to another dataset.
    """
    found = bisect_left(bin_edges, length_tokens)
    if found == len(bin_edges):
        raise InputError("token_len", length_tokens, f"is above the last bin edge, {bin_edges[-1]}")
    return found


def check(bin_edges: Sequence[int]) -> None:
    """Refuse edges that are no edges.

    Raises:
        InputError: They are none, or they descend.
    """
    if not bin_edges or any(low > high for low, high in pairwise(bin_edges)):
        raise InputError("bin_edges", list(bin_edges), "must be ascending, at least one")
