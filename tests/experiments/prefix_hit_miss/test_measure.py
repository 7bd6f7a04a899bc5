"""What is done to the engine, and what the engine says about it."""

import pytest

from benchmarks.servers.offline import BLOCK, FakeLLM
from kvlab.errors import KvlabError
from kvlab.evidence import full_hit_tokens
from kvlab.experiments.prefix_hit_miss import estimate, trials
from kvlab.experiments.prefix_hit_miss import measure as procedures
from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams
from tests.experiments.prefix_hit_miss.conftest import SMALL

QUESTION = len(procedures.QUESTION)


@pytest.fixture(autouse=True)
def _room_for_the_question(monkeypatch):
    """The imitated tokenizer makes a token of each character."""
    monkeypatch.setattr(procedures, "QUESTION_TOKENS_AT_MOST", QUESTION)


def table(frame, **changes):
    return estimate.table_of(frame, PrefixHitMissParams(**SMALL | changes))


def cached(rows, kind="ttft"):
    return [int(value) for value in rows[f"{kind}.cached_tokens"]]


def test_as_written_every_miss_after_the_first_is_a_hit(measured, params):
    _, frame, summary = measured()
    for a, b in params.configs:
        misses = estimate.of(table(frame), (a, b), "as_written", "miss")
        assert cached(misses) == [0] + [full_hit_tokens(b + QUESTION, BLOCK)] * 5
        assert list(misses["flagged"]) == [False] + [True] * 5
        assert list(misses["discarded"]) == [True] + [False] * 5
        hits = estimate.of(table(frame), (a, b), "as_written", "hit")
        assert cached(hits)[0] == (a + b) // BLOCK * BLOCK, "the first hit finds what the warm-up left"
        assert set(cached(hits)[1:]) == {full_hit_tokens(a + b + QUESTION, BLOCK)}
    assert summary.results["as_written_misses_read_from_cache"] == 10


def test_verified_states_are_what_they_are_meant_to_be(measured, params):
    _, frame, summary = measured()
    found = table(frame)
    for a, b in params.configs:
        for kind in ("ttft", "throughput"):
            assert set(cached(estimate.of(found, (a, b), "verified", "hit"), kind)) == {
                (a + b) // BLOCK * BLOCK
            }
            for miss in ("miss", "miss_same_length"):
                assert set(cached(estimate.of(found, (a, b), "verified", miss), kind)) == {0}
    lengths = {row.condition: row._asdict() for row in found.query("procedure == 'verified'").itertuples()}
    assert set(lengths) == {"hit", "miss", "miss_same_length"}
    by_condition = found.query("procedure == 'verified' and size_a == 100").groupby("condition")
    assert by_condition["ttft.prompt_tokens"].unique().map(list).to_dict() == {
        "hit": [148 + QUESTION],
        "miss": [48 + QUESTION],
        "miss_same_length": [148 + QUESTION],
    }
    assert (summary.results["verified_proven"], summary.results["verified_planned"]) == (30, 30)
    assert (summary.results["greedy_compared"], summary.results["greedy_equal"]) == (10, 10)


def test_a_reset_that_does_nothing_cannot_fake_a_miss_nor_spoil_a_hit(measured):
    """Markers isolate; only the cold reference of a hit, which is the same tokens, needs the reset."""
    _, _, summary = measured(FakeLLM(reset_works=False))
    assert summary.results["verified_proven"] == 30
    assert summary.results["verified_misses_read_from_cache"] == 0
    assert summary.results["greedy_compared"] == 0, "no reference was cold, so nothing is compared"


def test_no_two_measurements_share_a_first_block(measured):
    llm = FakeLLM()
    measured(llm, procedures=["verified"])
    heads = [prompt[:BLOCK] for prompt in llm.prompts]
    # A hit's three prompts and its prime share a head by design; nothing else does.
    assert len(set(heads)) == 2 * 6 * (2 + 4 + 4)


def test_a_resumed_run_warms_up_again_and_its_first_miss_is_cold_by_evidence(open_fake, params, capsys):
    run = open_fake()
    for trial in run.pending():
        run.measure(trial)
        if trial.trial_id == "a00070-b00048.as_written.miss.m03":
            break
    folder = run.folder
    run.close()
    again = open_fake(run_dir=str(folder))
    for trial in again.pending():
        again.measure(trial)
    misses = estimate.of(table(again.requests), (70, 48), "as_written", "miss")
    full = full_hit_tokens(48 + QUESTION, BLOCK)
    assert cached(misses) == [0, full, full, 0, full, full]
    assert list(misses["ttft.cache_state"]) == ["cold", "hit", "hit", "cold", "hit", "hit"]
    assert list(misses["ttft.session_id"].astype(int)) == [1, 1, 1, 2, 2, 2]
    rewarms = again.database.sql.execute("SELECT trial_id FROM requests WHERE arm LIKE '%/rewarm'").fetchall()
    assert [row[0] for row in rewarms] == ["a00070-b00048.as_written.miss.m04"]
    capsys.readouterr()
    list(again.pending())
    again.measure(again.trials[0])
    assert "after a new warm-up" not in capsys.readouterr().out
    again.close()


def test_all_requests_of_a_trial_are_one_transaction_and_a_failed_attempt_is_kept(measured):
    _, frame, summary = measured(FakeLLM(fail=[4]))
    failed = frame[frame["status"] == "failed"]
    assert len(failed) == 1
    assert failed["error_type"].tolist() == ["ENGINE_ERROR"]
    assert summary.results["trials_complete"] == summary.results["trials_planned"]


def test_a_question_that_is_too_long_is_refused(open_fake, monkeypatch):
    monkeypatch.setattr(procedures, "QUESTION_TOKENS_AT_MOST", QUESTION - 1)
    run = open_fake()
    warmup, first, *_ = run.trials
    run.measure(warmup)
    with pytest.raises(KvlabError, match="tokens of the question"):
        run.measure(first)
    run.close()


def test_the_plan_is_the_same_every_time_in_blocks_of_random_order(params):
    planned = trials.of(params)
    assert planned == trials.of(params)
    assert len({trial.trial_id for trial in planned}) == len(planned)
    verified = [trial.planned for trial in planned if trial.planned["procedure"] == "verified"]
    blocks = [verified[i : i + 3] for i in range(0, len(verified), 3)]
    assert all(
        {item["condition"] for item in block} == set(trials.CONDITIONS["verified"]) for block in blocks
    )
    assert len({tuple(item["condition"] for item in block) for block in blocks}) > 1
    assert [t.planned["condition"] for t in planned[:13]] == ["warmup"] + ["hit"] * 6 + ["miss"] * 6
