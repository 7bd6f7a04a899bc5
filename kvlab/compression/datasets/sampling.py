"""Which examples of each bin are asked.

Within a bin the order is that of a seeded hash of the ids, so a sample is random in length and
content, and a larger one of the same seed contains the smaller: raising the number later keeps
what is measured already.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from kvlab.errors import InputError


class Entry(NamedTuple):
    """An example's place: its id, its bin, and its context's length in tokens."""

    example_id: str
    bin_idx: int
    token_len: int


class Shortfall(NamedTuple):
    """A bin that has fewer examples than were wanted."""

    bin_idx: int
    wanted: int
    got: int


class Sample(NamedTuple):
    """The chosen entries, sorted by (token_len, example_id), and what is missing."""

    entries: list[Entry]
    shortfalls: list[Shortfall]


def uniform(entries: Iterable[Entry], n_bins: int, n_per_bin: int, *, seed: int) -> Sample:
    """Choose ``n_per_bin`` entries of every bin, or as many as it has."""
    return _choose(entries, dict.fromkeys(range(n_bins), n_per_bin), seed)


def focus_transition(
    entries: Iterable[Entry],
    n_bins: int,
    *,
    focus_bins: Sequence[int],
    base_n_per_bin: int,
    focus_n_per_bin: int,
    seed: int,
) -> Sample:
    """Choose more entries in the bins where a transition is suspected.

    Raises:
        InputError: A focus bin does not exist.
    """
    for bin_idx in focus_bins:
        if not 0 <= bin_idx < n_bins:
            raise InputError("focus_bins", bin_idx, f"is no bin; they are numbered 0 to {n_bins - 1}")
    wanted = {b: focus_n_per_bin if b in focus_bins else base_n_per_bin for b in range(n_bins)}
    return _choose(entries, wanted, seed)


def pinned(entries: Iterable[Entry], example_ids: Sequence[str]) -> Sample:
    """Choose exactly the named examples.

    Raises:
        InputError: An id is not in the dataset.
    """
    known = {entry.example_id: entry for entry in entries}
    for example_id in example_ids:
        if example_id not in known:
            fix = f"is none of the {len(known)} examples of this dataset; look ids up in its manifest"
            raise InputError("pinned", example_id, fix)
    return Sample(_sorted({known[example_id] for example_id in example_ids}), [])


def _choose(entries: Iterable[Entry], wanted: Mapping[int, int], seed: int) -> Sample:
    drawn = sorted(entries, key=lambda entry: _draw(seed, entry.example_id))
    chosen, shortfalls = list[Entry](), list[Shortfall]()
    for bin_idx, number in wanted.items():
        got = [entry for entry in drawn if entry.bin_idx == bin_idx][:number]
        chosen += got
        if len(got) < number:
            shortfalls.append(Shortfall(bin_idx, number, len(got)))
    return Sample(_sorted(chosen), shortfalls)


def _draw(seed: int, example_id: str) -> bytes:
    return hashlib.sha256(f"{seed}/{example_id}".encode()).digest()


def _sorted(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (entry.token_len, entry.example_id))
