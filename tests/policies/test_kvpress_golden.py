"""Kept entries and greedy tokens equal kvpress 0.5.5's; `make conformance` compares live."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.kvpress import ours
from benchmarks.kvpress.cases import CASES, KINDS

GOLDEN = json.loads(Path(__file__).with_name("kvpress_golden.json").read_text())


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_golden_is_of_the_pinned_kvpress_and_of_every_case():
    assert GOLDEN["kvpress"] == "0.5.5"
    assert GOLDEN["transformers"] and GOLDEN["torch"]
    assert set(GOLDEN["cases"]) == {case.key for case in CASES}


@pytest.mark.parametrize("kind", KINDS)
def test_kept_entries_and_tokens_are_those_of_kvpress(kind):
    found = list(ours.compare(GOLDEN["cases"], (kind,)))
    assert len(found) == len(CASES) / len(KINDS)
    assert [case.key for case, kept, _ in found if not kept] == []
    assert [case.key for case, _, tokens in found if tokens is False] == []
    assert sum(tokens is True for *_, tokens in found) == 15
