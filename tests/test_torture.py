"""The short form of ``make torture``: a few attacks of each kind, and nothing that must not happen."""

import random

import pytest

from benchmarks.torture import __main__ as torture
from benchmarks.torture import budget, faults, fuzz, fuzz_files, fuzz_runs, fuzz_server, notebooks
from benchmarks.torture.counts import HARMS, Counts, read_lines, total
from benchmarks.torture.ledger import Ledger
from benchmarks.torture.place import place
from benchmarks.torture.scenes import scenes


def harmless(counts):
    assert not counts.is_bad, (counts.harms, counts.notes)
    return counts


def test_a_kernel_is_killed_at_boundaries_and_at_an_instant():
    rows = torture.attack("kills", "token_sweep", 1, quick=True)
    assert [harmless(row).tried for row in rows] == [3, 1]
    assert rows[0].seen["cold_requests"] > 0
    assert rows[0].seen["hit_requests"] > 0


def test_some_faults_through_a_whole_run():
    names = faults.chosen(quick=True)[:12]
    counts = harmless(faults.pairs(names))
    assert counts.seen["faults"] == len(names)
    assert counts.seen["files_searched"] > 5


@pytest.mark.parametrize("module", [fuzz_server, fuzz_files, fuzz_runs], ids=["server", "files", "runs"])
def test_some_generated_input(module):
    with place("http://127.0.0.1:9/v1"):
        for target in module.targets():
            if target.name in (
                "result files (prefix_hit_miss.plots)",
                "damaged database (kvlab ls, kvlab report)",
            ):
                continue  # each of which draws pictures
            harmless(fuzz.attack(target, 7, share=0.002))


def test_a_notebook_is_interrupted_and_gone_on_with():
    (counts,) = notebooks.run(scenes(quick=True)["token_sweep"], 1, stories=notebooks.STORIES[:1])
    harmless(counts)
    assert counts.seen["interrupts"] >= 1
    assert counts.seen["cold_requests"] > 0


def test_a_part_whose_time_runs_out_says_what_it_did_not_try(monkeypatch):
    shares = torture.Shares(["kills", "kills", "fuzz"], 700)
    first = shares.take("kills")
    assert 590 < first <= 600, "both lanes' time, by three sevenths"
    assert 600 < shares.take("kills") <= 700, "two thirds of what is left, which both lanes have"
    assert shares.take("fuzz") <= 700
    assert shares.take("fuzz") >= 20, "never nothing"
    counts = Counts("x", tried=3)
    counts.ran_out("3 of 20 kills")
    assert counts.is_bad
    assert "3 of 20 kills" in counts.notes[0]
    assert total([Counts("y", tried=1), counts]).short
    assert next(iter(read_lines(counts.to_line()))).short
    assert not budget.is_spent()
    monkeypatch.setattr(budget, "_seconds", -1.0)
    assert budget.is_spent()


def test_each_harm_is_seen(tmp_path):
    """A count that cannot rise would count nothing."""
    counts = Counts("x")
    assert counts.is_bad, "nothing was tried"
    counts.tried = 1
    assert not counts.is_bad
    for kind in HARMS:
        counts.harm(kind, "said")
    assert counts.harms == dict.fromkeys(HARMS, 1)
    ledger = Ledger(scenes()["token_sweep"], tmp_path, found := Counts("y"))
    ledger.after(
        "[1/2] 000160-r01 done: cold\n[1/2] 000160-r01 done: cold\nTraceback (most recent call last)\n"
    )
    assert (found.lost, found.doubled, found.tracebacks) == (1, 1, 1)


def test_a_failure_in_other_words_is_a_traceback_and_what_is_slow_is_a_hang():
    def read(number):
        if number % 3 == 0:
            raise KeyError(number)
        while number % 3 == 1:
            random.random()

    target = fuzz.Target("x", fuzz.st.integers(0, 100), read, examples=20, limit_s=0.02)
    counts = fuzz.attack(target, 1)
    assert counts.tracebacks > 0
    assert counts.hangs > 0
