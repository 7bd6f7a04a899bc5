"""What a profile asks for, and what becomes of it when `--set` changes the dataset."""

from collections import Counter

import pytest

from kvlab.compression import policies
from kvlab.compression.policies import Budget
from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition import plan, prepared
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.params import profiles, resolve

NAME = "kv_budget_transition"
LONGBENCH = ["dataset.name=longbench", "dataset.task=qasper", "dataset.path=/data"]


def resolved(profile, overrides=()):
    return resolve(KVBudgetTransitionParams, NAME, profile=profile, overrides=overrides)


@pytest.mark.parametrize("profile", sorted({*profiles(NAME)} - {"submission"}))
def test_every_budget_of_a_profile_can_be_honoured_on_its_shortest_context(profile):
    params = resolved(profile).params
    for budget in params.kv.budgets:
        policies.get(params.kv.policy).check(Budget.of(budget), min(params.dataset.lengths_tokens))


def test_sanity_has_three_short_three_medium_and_four_long():
    params = resolved("sanity").params
    entries = prepared.manifest(params).entries
    assert Counter(entry.bin_idx for entry in entries) == {0: 3, 1: 3, 2: 4}
    assert Counter(entry.token_len for entry in entries) == {400: 3, 900: 3, 1700: 4}
    assert (params.kv.budgets, params.rounds) == ([1.0, 0.2], 0)


@pytest.mark.parametrize("profile", ["smoke", "dense", "focus", "sanity"])
def test_another_dataset_leaves_out_what_was_meant_for_the_first(profile):
    found = resolved(profile, LONGBENCH)
    assert (found.params.dataset.name, found.params.dataset.pinned) == ("longbench", [])
    assert found.sources["dataset.lengths_tokens"].startswith("left out")
    assert found.sources["dataset.name"] == "--set"
    assert "dataset.task" not in [name for name, source in found.sources.items() if "left out" in source]


def test_what_set_itself_names_is_not_left_out_but_refused():
    with pytest.raises(InputError, match="tasks means nothing for longbench"):
        resolved("smoke", [*LONGBENCH, "dataset.tasks=[multi_key]"])
    same = resolved("dense", ["dataset.name=synthetic"])
    assert same.params.dataset.tasks[1:] == ["multi_key", "multi_query", "variable_tracking"]


def test_an_endpoint_has_no_timed_pass():
    """Its answers have times of their own, which a timed pass would hide."""
    overrides = ["engine.name=openai_compat", "kv.budgets=[1.0]", "dataset.lengths_tokens=[300]"]
    params = resolved("smoke", overrides).params
    assert params.kv.timed_per_bin == 1
    manifest = prepared.manifest(params)
    assert not [trial for trial in plan.trials(params, manifest) if trial.planned["timed"]]
