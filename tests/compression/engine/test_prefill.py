import pytest

from benchmarks.kvpress import ours, tiny
from kvlab.compression import policies
from kvlab.compression.engine.states import States
from kvlab.compression.policies import Budget
from kvlab.errors import InputError

CONTEXT, TAIL = tiny.prompt(60, 7)
SNAPKV, KNORM = policies.get("snapkv-w8"), policies.get("knorm")


def counts(engine):
    return engine.states.hits, engine.states.misses


def test_an_example_is_prefilled_once_for_all_rounds():
    engine = ours.engine("llama")
    first = engine.prefill(CONTEXT, TAIL, "aware", [SNAPKV, KNORM])
    again = engine.prefill(CONTEXT, TAIL, "aware", [KNORM])
    assert again.state is first.state
    assert counts(engine) == (1, 1)
    engine.prefill(CONTEXT, TAIL[:3], "aware", [KNORM])  # another question in view
    assert counts(engine) == (1, 2)


def test_anew_computes_what_is_there_and_leaves_it_there():
    engine = ours.engine("llama")
    first = engine.prefill(CONTEXT, TAIL, "agnostic", [KNORM])
    other = engine.prefill(CONTEXT, TAIL, "agnostic", [], anew=True)
    assert other.state is not first.state
    assert other.state.keys[0] is not first.state.keys[0]
    assert engine.prefill(CONTEXT, TAIL, "agnostic", [KNORM]).state is first.state
    assert counts(engine) == (1, 2)


def test_in_agnostic_questions_about_one_context_share_its_prefill():
    engine = ours.engine("llama")
    one = engine.prefill(CONTEXT, TAIL, "agnostic", [KNORM])
    other = engine.prefill(CONTEXT, TAIL[:3], "agnostic", [KNORM])
    assert other.state is one.state
    engine.prefill(CONTEXT, TAIL, "aware", [KNORM])
    assert counts(engine) == (1, 2)


def test_a_policy_that_was_not_asked_for_needs_a_prefill_of_its_own():
    engine = ours.engine("llama")
    done = engine.prefill(CONTEXT, TAIL, "agnostic", [KNORM])
    with pytest.raises(InputError, match=r"policy: 'snapkv-w8-k5-avg' was not among"):
        engine.generate(done, SNAPKV, [Budget.of(0.5)], 2)
    assert SNAPKV.id in engine.prefill(CONTEXT, TAIL, "agnostic", [SNAPKV]).state.rankings
    assert counts(engine) == (0, 2)


def test_states_are_held_up_to_a_number_of_bytes_and_the_oldest_goes_first():
    engine = ours.engine("llama")
    contexts = [tiny.prompt(60, 7, seed)[0] for seed in range(3)]
    size = engine.prefill(CONTEXT, TAIL, "agnostic", [KNORM]).state.nbytes
    assert size == 3 * (2 * 2 * 60 * 16 * 4 + 2 * 60 * 4)  # keys and values, and int32 ranks
    engine.states = States(2 * size)
    for context in (contexts[0], contexts[1], contexts[0], contexts[2], contexts[0], contexts[1]):
        engine.prefill(context, TAIL, "agnostic", [KNORM])
        assert engine.states.nbytes <= 2 * size
    assert counts(engine) == (2, 4)
    engine.close()
    assert (len(engine.states), engine.states.nbytes) == (0, 0)


def test_what_is_larger_than_the_cap_is_not_held():
    engine = ours.engine("llama")
    engine.states = States(1000)
    assert engine.prefill(CONTEXT, TAIL, "agnostic", [KNORM]).state is not None
    assert len(engine.states) == 0


@pytest.mark.parametrize(
    ("context", "tail", "new_tokens", "message"),
    [
        ([], TAIL, 1, "context_ids: is empty"),
        (CONTEXT, [], 1, "tail_ids: is empty"),
        (CONTEXT * 9, TAIL, 1, "n_context: 540 is too long.* 548 tokens, and 512 fit"),
        (CONTEXT, TAIL, 500, "n_context: 60 is too long.* 567 tokens, and 512 fit"),
        (CONTEXT, TAIL, 0, "max_new_tokens: 0 is too small"),
        ([*CONTEXT, 199], TAIL, 1, "context_ids: 199 is no token"),
        (CONTEXT, [-1, 5], 1, "tail_ids: -1 is no token"),
    ],
)
def test_what_the_model_cannot_read_is_refused_by_name(context, tail, new_tokens, message):
    with pytest.raises(InputError, match=message):
        ours.engine("llama").timed(context, tail, "agnostic", KNORM, Budget.of(1.0), new_tokens)


def test_a_budget_that_the_policy_cannot_honour_is_refused_before_anything_runs():
    engine = ours.engine("llama")
    done = engine.prefill(CONTEXT, TAIL, "agnostic", [SNAPKV])
    with pytest.raises(InputError, match=r"0\.1 keeps 5 of 60 .*at least 8"):
        engine.generate(done, SNAPKV, [Budget.of(1.0), Budget.of(0.1)], 2)
    aware = engine.prefill(CONTEXT, TAIL, "aware", [SNAPKV])
    assert engine.generate(aware, SNAPKV, [Budget.of(0.1)], 2)[0].n_kept_by_layer == [5] * 3
