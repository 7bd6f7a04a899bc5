"""Tiny random models of each architecture; the packaged model is in test_packaged."""

import pytest
import torch

from benchmarks.kvpress import ours, tiny
from kvlab.compression import policies
from kvlab.compression.engine import decode, work
from kvlab.compression.policies import Budget
from kvlab.taxonomy import ErrorType

BUDGETS = [Budget.of(value) for value in (1.0, 0.7, 0.5, 40, 0.2)]
IDS = ("snapkv-w8-k5-avg", "knorm", "streaming_llm-s4", "random-s0")
POLICIES = [policies.get(policy_id) for policy_id in IDS]
CONTEXT, TAIL = tiny.prompt(90, 7)


def plain(model, new_tokens=10):
    """What the model's own generate gives, without any of this."""
    with torch.inference_mode():
        ids = model.generate(torch.tensor([CONTEXT + TAIL]), max_new_tokens=new_tokens, do_sample=False)
    return ids[0, len(CONTEXT) + len(TAIL) :].tolist()


@pytest.mark.parametrize("kind", tiny.KINDS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("query_mode", ["agnostic", "aware"])
def test_a_full_budget_is_no_policy_at_all(kind, attention, query_mode):
    engine = ours.engine(kind, attention=attention)
    done = engine.prefill(CONTEXT, TAIL, query_mode, POLICIES)
    expected = plain(engine.model)
    for policy in [*POLICIES, policies.get("full")]:
        (made,) = engine.generate(done, policy, [Budget.of(1.0)], 10)
        assert list(made.token_ids) == expected
        assert (made.error, made.finish_reason) == (None, "length")


def test_a_sliding_window_that_is_not_reached_changes_nothing():
    model = tiny.model("mistral")
    model.config.sliding_window = 128
    engine = ours.around(model)
    done = engine.prefill(CONTEXT, TAIL, "agnostic", POLICIES)
    assert list(engine.generate(done, POLICIES[0], BUDGETS, 10)[0].token_ids) == plain(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("query_mode", ["agnostic", "aware"])
def test_what_is_kept_is_read_from_the_cache_and_is_what_was_asked_for(dtype, query_mode):
    engine = ours.engine("qwen3", dtype=dtype)
    done = engine.prefill(CONTEXT, TAIL, query_mode, POLICIES)
    for policy in POLICIES:
        for made, budget in zip(engine.generate(done, policy, BUDGETS, 4), BUDGETS, strict=True):
            n_kept = budget.n_kept(90)
            assert made.n_kept_by_layer == [n_kept] * 3
            assert made.cache_bytes == 3 * 2 * 2 * n_kept * 16 * dtype.itemsize
            assert (made.n_context, made.n_tail, made.budget) == (90, 7, budget)
            assert made.batch_size == (5 if dtype == torch.float32 else 1)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_budgets_decoded_together_give_what_each_gives_alone_and_timed(kind):
    engine = ours.engine(kind)
    for query_mode in ("agnostic", "aware"):
        done = engine.prefill(CONTEXT, TAIL, query_mode, POLICIES)
        for policy in POLICIES[:2]:
            together = engine.generate(done, policy, BUDGETS, 10)
            alone = [engine.generate(done, policy, [budget], 10)[0] for budget in BUDGETS]
            timed = engine.timed(CONTEXT, TAIL, query_mode, policy, BUDGETS[2], 10)
            assert [made.token_ids for made in together] == [made.token_ids for made in alone]
            assert timed.token_ids == together[2].token_ids
            assert timed.n_kept_by_layer == together[2].n_kept_by_layer
            assert timed.cache_bytes == together[2].cache_bytes
            assert len({made.token_ids for made in together}) > 1  # or the budgets did nothing


def test_pruned_entries_are_unseen_and_the_rest_keeps_its_positions():
    """The oracle: the stock model, in which later tokens are masked from what was pruned."""
    engine = ours.engine("llama", attention="eager")
    policy, budget = policies.get("streaming_llm-s4"), Budget.of(30)
    (made,) = engine.generate(engine.prefill(CONTEXT, TAIL, "agnostic", [policy]), policy, [budget], 8)
    ids = CONTEXT + TAIL
    for token in made.token_ids:
        seen = torch.ones(len(ids), len(ids), dtype=torch.bool).tril()
        seen[90:, 4:64] = False  # 4 sinks and the last 26 of 90 are left
        mask = torch.zeros(1, 1, *seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        with torch.inference_mode():
            logits = engine.model(torch.tensor([ids]), attention_mask=mask).logits[0, -1]
        assert int(logits.argmax()) == token
        ids = [*ids, token]


def test_in_aware_the_first_token_comes_before_anything_is_pruned():
    engine = ours.engine("llama")
    done = engine.prefill(CONTEXT, TAIL, "aware", POLICIES)
    made = engine.generate(done, POLICIES[0], BUDGETS, 6)
    assert {one.token_ids[0] for one in made} == {plain(engine.model)[0]}


def test_no_budget_changes_the_prefill():
    engine = ours.engine("mistral")
    done = engine.prefill(CONTEXT, TAIL, "aware", POLICIES)
    before = [part.clone() for part in (*done.state.keys, *done.state.values)]
    for policy in POLICIES:
        engine.generate(done, policy, BUDGETS, 6)
    after = [*done.state.keys, *done.state.values]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_what_rounding_could_have_decided_is_decoded_again_alone(monkeypatch):
    engine = ours.engine("llama")
    done = engine.prefill(CONTEXT, TAIL, "agnostic", POLICIES)
    expected = engine.generate(done, POLICIES[0], BUDGETS, 6)
    monkeypatch.setattr(decode, "NEAR_TIE", 1e9)  # everything is too close to call
    made = engine.generate(done, POLICIES[0], BUDGETS, 6)
    assert {one.batch_size for one in made} == {1}
    assert [one.token_ids for one in made] == [one.token_ids for one in expected]


def test_batches_stay_within_their_bytes(monkeypatch):
    engine = ours.engine("llama")
    done = engine.prefill(CONTEXT, TAIL, "agnostic", POLICIES)
    expected = engine.generate(done, POLICIES[1], BUDGETS, 4)
    monkeypatch.setattr(work, "BATCH_BYTES", 2 * expected[0].cache_bytes)
    made = engine.generate(done, POLICIES[1], BUDGETS, 4)
    assert [one.batch_size for one in made] == [2, 2, 3, 3, 3]  # 90 + 63, then 45 + 40 + 17 entries
    assert [one.token_ids for one in made] == [one.token_ids for one in expected]


@pytest.mark.parametrize("position", [0, 3])
def test_an_end_of_text_token_ends_it_even_as_the_first_one(position):
    model = tiny.model("llama")
    first = plain(model)
    model.generation_config.eos_token_id = [first[position]]
    expected = first[: first.index(first[position]) + 1]
    engine = ours.around(model)
    done = engine.prefill(CONTEXT, TAIL, "agnostic", POLICIES)
    made = engine.generate(done, POLICIES[0], BUDGETS, 10)
    assert (list(made[0].token_ids), made[0].finish_reason) == (expected, "stop")
    for one in made:  # each ends at its own place
        assert (one.token_ids[-1] in engine.eos) == (one.finish_reason == "stop")
        assert len(one.token_ids) == 10 or one.finish_reason == "stop"


def test_only_a_budget_timed_alone_has_times_and_memory_of_its_own():
    engine = ours.engine("llama")
    done = engine.prefill(CONTEXT, TAIL, "agnostic", POLICIES)
    shared = engine.generate(done, POLICIES[0], BUDGETS, 4)[1]
    timed = engine.timed(CONTEXT, TAIL, "agnostic", POLICIES[0], BUDGETS[1], 4)
    assert (shared.ttft_ms, shared.peak_memory_bytes) == (None, None)
    assert "shared" in shared.timing_reason
    assert "shared" in shared.memory_reason
    assert timed.ttft_ms > 0
    assert timed.timing_reason is None
    assert timed.sent_ns < timed.first_token_ns == timed.token_ns[0] < timed.token_ns[-1] <= timed.done_ns
    assert timed.peak_memory_bytes is None or timed.peak_memory_bytes > 0
    assert timed.memory_reason


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), ErrorType.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ErrorType.OUT_OF_MEMORY),
        (MemoryError(), ErrorType.OUT_OF_MEMORY),
        (RuntimeError("a kernel failed"), ErrorType.ENGINE_ERROR),
    ],
)
def test_what_fails_in_the_model_is_a_failure_and_no_crash(monkeypatch, error, kind):
    def fail(*_, **__):
        raise error

    engine = ours.engine("llama")
    done = engine.prefill(CONTEXT, TAIL, "agnostic", POLICIES)
    monkeypatch.setattr(engine.model.model, "forward", fail)
    broken = engine.prefill(TAIL, CONTEXT, "agnostic", [])
    made = [
        *engine.generate(done, POLICIES[0], BUDGETS, 4),
        *engine.generate(broken, policies.get("full"), BUDGETS[:1], 4),
        engine.timed(CONTEXT, TAIL, "aware", POLICIES[0], BUDGETS[0], 4),
    ]
    assert [one.error.error_type for one in made] == [kind] * 7
    for one in made:
        assert (one.token_ids, one.finish_reason, one.n_kept_by_layer, one.cache_bytes) == (
            (),
            None,
            [],
            None,
        )


def test_a_batch_that_does_not_fit_is_decoded_one_by_one(monkeypatch):
    engine = ours.engine("llama")
    done = engine.prefill(CONTEXT, TAIL, "agnostic", POLICIES)
    expected = engine.generate(done, POLICIES[0], BUDGETS, 4)
    whole = work.decode

    def small(model, rows, *rest):
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, rows, *rest)

    monkeypatch.setattr(work, "decode", small)
    made = engine.generate(done, POLICIES[0], BUDGETS, 4)
    assert {one.batch_size for one in made} == {1}
    assert [one.token_ids for one in made] == [one.token_ids for one in expected]
