"""Laws of servers that do not tell them: learned over HTTP, stored, and gone on with after a stop."""

import json
import re

import pytest

from kvlab import api
from kvlab.experiments.cache_laws.log import ANSWERED, SENT
from kvlab.laws.law import CacheLaw

BLACK_BOX = {"token_ids": False, "tokenize": False, "metrics": False, "persona": "other"}


def opened(**params):
    return api.open("cache_laws", {"profile": "default", "max_prompt_tokens": 4096, **params})


def measured(run):
    for trial in run.pending():
        run.measure(trial)
    return run.findings().summary("cache_laws", "test")


def probes(run, name=ANSWERED):
    rows = run.database.sql.execute(
        "SELECT text FROM observations WHERE name = ? ORDER BY observation_id", (name,)
    )
    return [json.loads(row[0]) for row in rows.fetchall()]


@pytest.mark.parametrize(
    ("law", "options"),
    [
        (CacheLaw(1), {}),
        (CacheLaw(128, 1024), {}),
        (CacheLaw(256, tail_grain_tokens=16), {}),
        (CacheLaw(528, grains_off=1), {}),
        (CacheLaw(1), BLACK_BOX),
        (CacheLaw(128, 1024), {**BLACK_BOX, "template_prefix_tokens": 20}),
    ],
    ids=lambda value: value.words if isinstance(value, CacheLaw) else "text" if value else "ids",
)
def test_a_hidden_law_is_found_by_token_ids_and_by_text(serving, law, options):
    serving(law, **options)
    run = opened()
    summary = measured(run)
    found = summary.results["law"]
    run.close()
    assert summary.verdict == "PASS", summary.reasons
    names = ("grain_tokens", "minimum_tokens", "always_computed_tokens", "grains_off", "cap_tokens")
    assert {name: found[name] for name in names} == {name: getattr(law, name) for name in names}
    assert summary.results["detail"]["tail_grain_tokens"] == law.tail_grain_tokens
    assert found["predicted"] == found["held_out"] >= 7
    assert found["reason"] is None
    start = 3 + options.get("template_prefix_tokens", 0) if options else 0
    assert found["shared_start_tokens"] == start


def test_a_server_without_a_cache_gives_no_law_and_says_why(serving):
    serving(CacheLaw(16), prefix_caching=False)
    run = opened(max_prompt_tokens=512)
    summary = measured(run)
    run.close()
    assert summary.verdict == "INVALID"
    assert "0 of them were cached" in summary.results["law"]["reason"]
    assert summary.results["law"]["grain_tokens"] is None
    assert summary.results["capacity"] == {
        "tokens_low": None, "tokens_high": None, "policy": None, "declared_tokens": None, "reason": "not asked for (parts)",
    }  # fmt: skip


def stopped_at(run, number):
    """Let the connection break down with the process at a request, once it was sent."""
    ask, asked = run.engine.ask, []

    def once(call):
        asked.append(call)
        row = ask(call)
        if len(asked) == number:
            raise KeyboardInterrupt
        return row

    run.engine.ask = once
    with pytest.raises(KeyboardInterrupt):
        measured(run)
    run.close()
    return run.folder


def test_a_stopped_run_goes_on_with_its_answers_and_another_tail_for_the_lost_prompt(serving):
    serving(CacheLaw(32))
    folder = stopped_at(opened(), 10)
    run = opened(run_dir=str(folder))
    before = probes(run)
    assert len(before) == 9
    summary = measured(run)
    after, sent = probes(run), probes(run, SENT)
    run.close()
    assert after[:9] == before, "nothing was asked twice"
    assert len(sent) == len(after) + 1, "but the one that was lost"
    assert {row["life"] for row in after} == {0}
    assert after[9]["spec"] == sent[9]["spec"]
    assert summary.verdict == "PASS"
    assert summary.results["law"]["grain_tokens"] == 32


def test_a_lost_prompt_that_others_extend_begins_a_new_life(serving):
    """Asked again it would read itself: 256 tokens where 64 were known, and a law of one step less."""
    serving(CacheLaw(32))
    folder = stopped_at(opened(), 2)
    run = opened(run_dir=str(folder))
    summary = measured(run)
    lives = [row["life"] for row in probes(run)]
    run.close()
    assert lives[0] == 0
    assert set(lives[1:]) == {1}
    assert summary.verdict == "PASS"
    assert summary.results["law"]["grain_tokens"] == 32


def test_a_failure_is_tried_again_and_does_not_make_a_wrong_law(serving):
    server = serving(CacheLaw(32))
    run = opened()
    server.control(faults={"2": "status_500", "12": "status_429"})
    summary = measured(run)
    run.close()
    assert summary.verdict == "PASS", summary.reasons
    assert summary.results["law"]["grain_tokens"] == 32


def test_a_server_that_goes_away_leaves_the_part_to_be_gone_on_with(serving):
    server = serving(CacheLaw(32))
    run = opened(max_attempts=1, outage_s=0.0)
    server.control(faults={"8": "status_500"})
    summary = measured(run)
    run.close()
    assert summary.verdict == "INVALID"
    assert summary.results["law"]["reason"] == "not measured to its end"
    again = opened(max_attempts=1, outage_s=0.0, run_dir=str(run.folder))
    summary = measured(again)
    lives = {row["life"] for row in probes(again)}
    again.close()
    assert summary.verdict == "PASS", summary.reasons
    assert lives == {0}


def test_the_other_parts_need_a_law_and_say_so(serving):
    serving(CacheLaw(32), metrics=False)
    run = opened(parts=["sharing"])
    summary = measured(run)
    run.close()
    assert summary.verdict == "INVALID"
    assert "the law of reuse is not known" in summary.results["sharing"]["reason"]


def test_a_capacity_that_is_cut_off_says_what_is_certain_by_then(serving):
    serving(CacheLaw(32), capacity_blocks=300)
    run = opened(parts=["law", "capacity"], max_prompt_tokens=1024, part_prompt_tokens=256)
    law, capacity = run.trials
    run.measure(law)
    run.params = run.params.model_copy(update={"max_part_s": 0.25})
    run.measure(capacity)
    found = run.findings().summary("cache_laws", "test")
    run.close()
    assert found.verdict == "PASS", "the law stands"
    assert found.results["capacity"]["tokens_high"] is None
    assert found.results["capacity"]["tokens_low"] < 300 * 32
    assert "max_part_s" in found.results["capacity"]["reason"]


def test_tenants_have_salts_that_every_server_takes_and_a_refusal_is_said(serving):
    server = serving(CacheLaw(32))
    run = opened(parts=["sharing", "fidelity"], part_prompt_tokens=128, fidelity_prompts=1, fidelity_tokens=1)
    ask, salts = run.engine.ask, []
    run.identity = run.identity.model_copy(update={"block_size": 32})
    run.engine.ask = lambda call: salts.append(call.salt) or ask(call)
    run.measure(run.trials[0])
    assert len(set(salts)) == 3, "two tenants, and none"
    assert all(re.fullmatch("[0-9a-f]{16}", salt) for salt in salts if salt is not None)
    server.control(salt_rejected=True)
    run.measure(run.trials[1])
    results = run.findings().results
    run.close()
    assert results["sharing"]["salt"]["verdict"] == "isolated"
    assert results["fidelity"]["verdict"] is None
    assert "a request failed: REFUSED_INPUT" in results["fidelity"]["reason"]
