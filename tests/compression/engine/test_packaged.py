"""The packaged model, for real."""

import pytest
import torch

from kvlab.compression import policies
from kvlab.compression.engine import open_engine
from kvlab.compression.policies import Budget
from kvlab.settings import load_settings

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
NEEDLE = "One of the special magic numbers for wandering-age is: 8090293. "
QUESTION = "What is the special magic number for wandering-age mentioned in the text?<|im_end|>\n"
ANSWER = "<|im_start|>assistant\nThe special magic number for wandering-age is"


@pytest.mark.engine
def test_a_full_budget_finds_the_needle_with_the_tokens_of_the_models_own_generate():
    lengths = []
    engine = open_engine(load_settings(), lengths.append)
    assert lengths == [8192, 8192]
    context = engine.counter.encode(f"<|im_start|>user\n{FILLER * 7}{NEEDLE}{FILLER * 7}")
    tail = engine.counter.encode(QUESTION + ANSWER)
    policy = policies.get("snapkv")
    budgets = [Budget.of(value) for value in (1.0, 0.8, 0.5, 100)]
    made = engine.generate(engine.prefill(context, tail, "agnostic", [policy]), policy, budgets, 8)
    with torch.inference_mode():
        ids = engine.model.generate(torch.tensor([context + tail]), max_new_tokens=8, do_sample=False)
    assert list(made[0].token_ids) == ids[0, len(context) + len(tail) :].tolist()
    assert "8090293" in made[0].text
    for one in made:
        alone = engine.generate(engine.prefill(context, tail, "agnostic", [policy]), policy, [one.budget], 8)
        assert alone[0].token_ids == one.token_ids
        assert one.n_kept_by_layer == [one.budget.n_kept(len(context))] * 30
        assert one.cache_bytes == 30 * 2 * 3 * one.n_kept_by_layer[0] * 64 * 4
    assert (engine.identity.kind, engine.identity.model) == ("transformers KV", "smollm2-135m-instruct")
    engine.close()
