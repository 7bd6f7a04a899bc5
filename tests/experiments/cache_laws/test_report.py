"""What the report says, from the stored run and from runs that cannot be."""

import json

import pytest

from kvlab.experiments import get
from kvlab.experiments.cache_laws import sentences
from kvlab.laws.law import CacheLaw
from kvlab.report import build
from kvlab.runs.data import RunData
from tests.golden import stored

LAWS = get("cache_laws")


@pytest.fixture
def run(tmp_path):
    with RunData.open(stored.copy("cache_laws", tmp_path / "run")) as data:
        yield data


def found(data):
    params = LAWS.Params.check(data.stored["params"])
    return LAWS.findings(data, params).summary("cache_laws", "test")


def changed(data, part, **fields):
    """Let a part have ended otherwise."""
    where = "WHERE trial_id = ? AND name = 'outcome'"
    (text,) = data.sql.execute(f"SELECT text FROM observations {where}", (part,)).fetchone()
    outcome = json.loads(text) | fields
    data.sql.execute(f"UPDATE observations SET text = ? {where}", (json.dumps(outcome), part))
    return found(data)


def test_the_summary_has_the_fixed_fields(run):
    results = found(run).results
    assert set(results["law"]) == {
        "grain_tokens", "minimum_tokens", "always_computed_tokens", "grains_off", "shared_start_tokens", "cap_tokens",
        "formula", "predicted", "held_out", "confidence", "reason",
    }  # fmt: skip
    assert set(results["capacity"]) == {"tokens_low", "tokens_high", "policy", "declared_tokens", "reason"}
    assert set(results["lifetime"]) == {"ttl_s_low", "ttl_s_high", "survived_s", "reason"}
    assert set(results["sharing"]) == {"salt", "key", "replicas", "reason"}
    assert results["capacity"]["tokens_low"] == results["capacity"]["tokens_high"] == 48 * 32
    assert results["lifetime"]["ttl_s_low"] < 1.5 <= results["lifetime"]["ttl_s_high"]
    assert results["sharing"]["salt"]["verdict"] == "isolated"
    assert results["cost"]["requests"] == len(run.requests)


@pytest.mark.parametrize(
    ("law", "words"),
    [
        (
            CacheLaw(32),
            "This server reuses prompts in steps of 32 tokens; the last token of a prompt is always computed; a prompt "
            "below 33 tokens is never a hit.",
        ),
        (
            CacheLaw(1),
            "This server reuses prompts by the token; the last token of a prompt is always computed.",
        ),
        (
            CacheLaw(128, 1024, 0),
            "This server reuses prompts in steps of 128 tokens; what would be below 1,024 tokens is not reused at all; a "
            "prompt below 1,024 tokens is never a hit.",
        ),
    ],
)
def test_a_law_is_one_plain_sentence(law, words):
    shortest = next(n for n in range(1, 5000) if law.full_hit(n))
    assert sentences.sentence(law, shortest) == words


@pytest.mark.parametrize(
    ("law", "block"),
    [
        (CacheLaw(32), 32),
        (CacheLaw(1, shared_start_tokens=3), 1),
        (CacheLaw(32, minimum_tokens=32), 32),
        (CacheLaw(32, tail_grain_tokens=32), 32),
        (CacheLaw(128, 1024), None),
        (CacheLaw(32, grains_off=1), None),
        (CacheLaw(256, tail_grain_tokens=16), None),
        (CacheLaw(32, always_computed_tokens=0), None),
        (CacheLaw(32, cap_tokens=4096), None),
    ],
)
def test_only_a_law_of_whole_blocks_becomes_a_line_of_env(law, block):
    assert sentences.block_size(law) == block
    if block is not None:
        whole = CacheLaw.whole_blocks(block)
        assert all(law.full_hit(n) == whole.full_hit(n) for n in range(1, 200))


def test_a_wrong_prediction_is_a_fail(run):
    summary = changed(run, "law", predicted=6)
    assert summary.verdict == "FAIL"
    assert any("6 of 7" in reason for reason in summary.reasons)


def test_without_a_law_there_is_no_answer_but_a_reason(run):
    summary = changed(run, "law", law=None, reason="grains still possible: 16, 32", possible_grains=[16, 32])
    assert summary.verdict == "INVALID"
    assert summary.headline == "No law of reuse can be claimed: grains still possible: 16, 32."
    assert summary.results["law"]["grain_tokens"] is None
    assert summary.results["law"]["reason"] == "grains still possible: 16, 32"


def test_another_answer_after_a_hit_is_a_fail(run):
    assert changed(run, "fidelity", verdict="different").verdict == "FAIL"


def test_an_unknown_capacity_does_not_take_the_law_away(run):
    summary = changed(run, "capacity", tokens_high=None, policy=None, reason="9 tokens did not suffice")
    assert summary.verdict == "PASS"
    assert summary.results["capacity"]["reason"] == "9 tokens did not suffice"


def test_an_answer_without_cached_tokens_is_no_proof(run):
    where = (
        "observation_id = (SELECT max(observation_id) FROM observations WHERE name = 'probe_cached_tokens')"
    )
    run.sql.execute(
        f"UPDATE observations SET text = json_set(text, '$.answer.cached_tokens', NULL) WHERE {where}"
    )
    assert found(run).verdict == "INVALID"


def test_a_cold_prompt_that_read_something_is_no_proof(run):
    where = (
        "observation_id = (SELECT min(observation_id) FROM observations WHERE name = 'probe_cached_tokens')"
    )
    run.sql.execute(
        f"UPDATE observations SET text = json_set(text, '$.answer.cached_tokens', 32) WHERE {where}"
    )
    summary = found(run)
    assert summary.verdict == "INVALID"
    assert any("share nothing" in reason for reason in summary.reasons)


def test_a_declared_law_that_is_wrong_is_said(run):
    run.identity = run.identity.model_copy(update={"block_size": 16})
    summary = found(run)
    (check,) = [check for check in summary.checks if check.name == "declared_law_agrees"]
    assert check.passed is False
    assert any("is not this server's" in reason for reason in summary.reasons)
    assert summary.verdict == "PASS", "the law was learned all the same"


def test_the_law_is_written_for_others(run, tmp_path):
    build.write_results(run, LAWS)
    content = json.loads((run.folder / sentences.LAW_FILE).read_text())
    assert CacheLaw(**content["learned_law"]) == CacheLaw(32)
    assert (run.folder / sentences.ENV_FILE).read_text() == "KV_BLOCK_SIZE_TOKENS=32\n"
