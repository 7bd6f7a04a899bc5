"""Kept entries and greedy tokens equal kvpress 0.5.5's; `make conformance` compares live."""

import json
from pathlib import Path

import pytest

from benchmarks.kvpress import ours
from benchmarks.kvpress.cases import CASES, KINDS

GOLDEN = json.loads(Path(__file__).with_name("kvpress_golden.json").read_text())


def test_the_golden_is_of_the_pinned_kvpress_and_of_every_case():
    assert GOLDEN["kvpress"] == "0.5.5"
    assert GOLDEN["transformers"]
    assert GOLDEN["torch"]
    assert set(GOLDEN["cases"]) == {case.key for case in CASES}


@pytest.mark.parametrize("kind", KINDS)
def test_kept_entries_and_tokens_are_those_of_kvpress(kind):
    found = list(ours.compare(GOLDEN["cases"], (kind,)))
    assert len(found) == len(CASES) / len(KINDS)
    assert [case.key for case, kept, _ in found if not kept] == []
    assert [case.key for case, _, tokens in found if tokens is False] == []
    assert sum(tokens is True for *_, tokens in found) == 15
