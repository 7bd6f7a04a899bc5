"""Servers without token ids: what a context has in tokens is known by the server's counts alone."""

import pytest

from benchmarks.servers.process import FakeServer
from kvlab.errors import InputError
from kvlab.experiments.context_limit_probe import ledger
from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.search import (
    Scale,
    bracket,
    held_points,
    is_on_the_plateau,
    least_tokens,
    next_size,
)
from tests.command.tool import folders
from tests.experiments.context_limit_probe.test_endpoint import run
from tests.experiments.context_limit_probe.test_ledger import probe

GUESS = Scale(((2000, 500), (200_000, 50_000)))


def text(characters, outcome=ProbeOutcome.HELD, counted=None, **detail):
    return probe(counted or characters // 4, outcome, characters=characters, counted=counted, **detail)


def test_a_scale_goes_through_its_points_and_back():
    scale = Scale(((1000, 300), (2000, 500), (4000, 1100)))
    assert [scale.tokens(n) for n in (500, 1000, 1500, 3000, 7000)] == [167, 300, 400, 800, 1900]
    assert [scale.characters(n) for n in (300, 400, 800, 1900)] == [1000, 1500, 3000, 7000]
    assert (Scale(((1000, 300),)).tokens(2000), Scale(((1000, 300),)).characters(600)) == (600, 2000)


def test_only_what_was_held_and_counted_makes_the_scale():
    probes = [
        text(1000, counted=300),
        text(9000, ProbeOutcome.TRUNCATED, counted=900),
        text(2000),
        text(3000, counted=900),
    ]
    assert held_points(probes) == ((1000, 300), (3000, 900))


def search(limit, of_characters, *, high, truncates=False, stated=None):
    """Bisect on a server of which nothing is known but its counts. Returns the bracket, in real tokens."""
    params, probes = ContextLimitProbeParams(), []

    def ask(characters, why):
        real = of_characters(characters)
        counted = min(real, limit) if truncates else real
        held = real <= limit
        if truncates:
            held = counted >= least_tokens(probes, characters, GUESS) and not is_on_the_plateau(
                probes, characters, counted
            )
        outcome = ProbeOutcome.HELD if held else ProbeOutcome.TRUNCATED if truncates else ProbeOutcome.REFUSED
        detail = {"stated": stated} if outcome is ProbeOutcome.REFUSED else {}
        made = ledger.Probe(
            len(probes),
            1,
            "t",
            "endpoint",
            counted if held else 1,
            why,
            outcome,
            {"characters": characters, "counted": counted, **detail},
        )
        probes.append(made)

    for characters in (limit // 8, limit // 2, limit, high):
        if not any(not each.held for each in probes):
            ask(characters, "growth")
    steps = 0
    while (chosen := next_size(probes, params, None, GUESS)).size is not None:
        ask(chosen.size, chosen.why)
        steps += 1
        assert steps <= params.cut_steps, "the same size again and again"
    found = bracket(probes)
    return of_characters(found.held.size), of_characters(found.failed.size), steps


@pytest.mark.parametrize("limit", [4096, 8192, 32768])
@pytest.mark.parametrize("off", [0.7, 1.0, 1.05, 1.4])
@pytest.mark.parametrize("truncates", [False, True])
@pytest.mark.parametrize("stated", [True, False])
def test_the_limit_is_found_however_wrong_the_estimate_is(limit, off, truncates, stated):
    def real(characters):
        return round(40 + characters / 4 * off)

    low, high, _ = search(limit, real, high=limit * 8, truncates=truncates, stated=limit if stated else None)
    assert low <= limit < high + 1
    assert high - low <= limit // 100


@pytest.mark.parametrize("truncates", [False, True])
def test_a_server_whose_chats_are_a_third_longer_than_estimated(point_at, truncates):
    options = {"persona": "ollama", "token_ids": False, "message_tokens": 12, "truncates": truncates}
    with FakeServer(max_model_len=4096, base_ms=1, itl_ms=0.1, **options) as found:
        point_at(found)
        _, probes, summary = run(exchanges=[5, 10, 20, 40, 100], replay_exchanges=0, cold_tokens=[300])
    results = summary.results
    first = next(each for each in probes if each.target == "endpoint")
    assert not 0.9 < first.detail["planned"] / first.detail["counted"] < 1.1, "the estimate is off"
    assert 4000 <= results["largest_accepted_tokens"] <= 4096
    assert results["limit_reason"] == ("truncated_silently" if truncates else "refused_by_server")
    assert next(check for check in summary.checks if check.name == "limit_found").passed is True
    assert results["smallest_failed_tokens"] - results["largest_accepted_tokens"] <= 40
    assert summary.verdict == "PASS", summary.checks


def test_a_cold_prompt_shorter_than_its_facts_is_refused_before_anything_is_written(point_at, outputs):
    with FakeServer(persona="other", token_ids=False, base_ms=1, itl_ms=0.1) as found:
        point_at(found)
        with pytest.raises(InputError, match=r"^cold_tokens: 128 is below the \d+ tokens of the facts"):
            run(needles=8, cold_tokens=[128])
    assert folders(outputs) == []
