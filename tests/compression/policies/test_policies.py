import pytest
import torch

from benchmarks.kvpress import ours, tiny
from kvlab.compression import policies
from kvlab.compression.policies import Budget, Layer
from kvlab.errors import InputError


@pytest.mark.parametrize(
    "policy_id", ["full", "knorm", "streaming_llm-s4", "random-s7", "random-s7-shared", "snapkv-w32-k7-max"]
)
def test_an_id_says_all_parameters_and_is_read_back(policy_id):
    assert policies.get(policy_id).id == policy_id
    assert policies.get(policy_id) == policies.get(policy_id)


def test_a_bare_name_means_the_defaults_and_its_id_says_them():
    found = [policies.get(name).id for name in policies.NAMES]
    assert found == ["full", "snapkv-w64-k5-avg", "streaming_llm-s4", "knorm", "random-s0"]


@pytest.mark.parametrize(
    "policy_id", ["h2o", "snapkv-q3", "snapkv-k4", "snapkv-w0", "snapkv-avg-max", "knorm-s1", "random-s-1"]
)
def test_an_id_that_means_nothing_is_refused_in_one_line(policy_id):
    with pytest.raises(InputError, match=rf"^policy: '{policy_id}' ") as error:
        policies.get(policy_id)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("policy_id", "budget", "n_tail", "works"),
    [
        ("snapkv-w64", 0.2, 0, "at least 64 entries"),
        ("snapkv-w64", 50, 10, "at least 54 entries"),
        ("streaming_llm-s4", 4, 0, "at least 5 entries"),
        ("full", 0.5, 0, "only 1.0 works"),
        ("snapkv-w512", 0.9, 0, "only 1.0 works"),
    ],
)
def test_a_budget_too_small_for_the_policy_is_refused_by_name(policy_id, budget, n_tail, works):
    policy = policies.get(policy_id)
    with pytest.raises(InputError, match=f"budgets: {budget} .*{policy.id}.*{works}"):
        policy.check(Budget.of(budget), 300, n_tail)
    policy.check(Budget.of(1.0), 300, n_tail)


def test_the_smallest_budget_named_works():
    policies.get("snapkv-w64").check(Budget.of(64), 300)
    policies.get("snapkv-w64").check(Budget.of(54), 300, 10)
    policies.get("streaming_llm-s4").check(Budget.of(5), 300)


def layer(index=0, context="a", n_context=10, n_prompt=12):
    keys = torch.randn(1, 2, n_prompt, 16, generator=torch.Generator().manual_seed(5))
    return Layer(index, None, torch.empty(0), keys, (torch.empty(0),) * 2, n_context, context)


def test_streaming_llm_prefers_sinks_and_then_the_latest():
    order = policies.get("streaming_llm-s2").scores(layer())[0, 1].argsort(descending=True).tolist()
    assert sorted(order[:2]) == [0, 1]
    assert order[2:] == [9, 8, 7, 6, 5, 4, 3, 2]


def test_knorm_prefers_short_keys_of_the_context():
    seen = layer()
    seen.keys[0, 0, 4] *= 0.01
    seen.keys[0, 0, 11] = 0.0  # the tail is no candidate
    scores = policies.get("knorm").scores(seen)
    assert scores.shape == (1, 2, 10)
    assert scores[0, 0].argmax() == 4


def test_random_draws_anew_for_each_layer_head_context_and_seed_and_never_otherwise():
    def draw(policy_id="random-s0", **where):
        return policies.get(policy_id).scores(layer(**where))

    assert torch.equal(draw(), draw())
    assert not torch.equal(draw()[0, 0], draw()[0, 1])
    assert not torch.equal(draw(), draw(index=1))
    assert not torch.equal(draw(), draw(context="b"))
    assert not torch.equal(draw(), draw("random-s1"))
    shared = "random-s0-shared"
    assert torch.equal(draw(shared), draw(shared, index=1, context="b"))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize(("query_mode", "n_tail"), [("agnostic", 6), ("aware", 6), ("aware", 11)])
def test_snapkv_ranks_by_the_attention_that_the_model_itself_reports(kind, pool, query_mode, n_tail):
    policy = policies.get(f"snapkv-w8-k5-{pool}")
    context, tail = tiny.prompt(50, n_tail)
    engine = ours.engine(kind, attention="eager")
    prompt = context + (tail if query_mode == "aware" else [])
    with torch.inference_mode():
        weights = engine.model(torch.tensor([prompt]), output_attentions=True).attentions
    state = engine.prefill(context, tail, query_mode, [policy]).state
    window = max(8, len(prompt) - 50)
    for attention, ranking in zip(weights, state.rankings[policy.id], strict=True):
        before = attention[0, :, -window:, :-window].mean(dim=1)
        padded = torch.nn.functional.pad(before, (2, 2)).unfold(-1, 5, 1)
        pooled = padded.mean(dim=-1) if pool == "avg" else padded.amax(dim=-1)
        expected = pooled.view(2, 2, -1).mean(dim=1)
        n_always = 50 - expected.shape[-1]
        chosen = ranking[0, :, n_always:].long()
        assert (ranking[0, :, :n_always] >= expected.shape[-1]).all()
        ordered = expected.gather(-1, chosen)
        assert (ordered.diff(dim=-1) <= 1e-6).all()
