import pytest

from kvlab.errors import InputError
from kvlab.experiment import EngineFacts
from kvlab.experiments import get
from kvlab.experiments.prefix_hit_miss.__main__ import command
from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams
from kvlab.params import resolve

EXPERIMENT = get("prefix_hit_miss")


def check(params, max_model_len):
    EXPERIMENT.check(params, EXPERIMENT.plan(params, None), EngineFacts(max_model_len))


def resolved(*overrides, profile="default"):
    return resolve(PrefixHitMissParams, "prefix_hit_miss", profile=profile, overrides=overrides).params


def test_the_default_profile_is_the_experiment_as_it_was_written():
    params = resolved()
    assert params.configs == [(512, 256)]
    assert (params.num_trials, params.warmup_trials, params.max_output_tokens) == (10, 1, 50)
    assert (params.warmup_tokens, params.settle_ms) == (6, 500)


def test_one_pair_of_sizes_replaces_the_list():
    assert resolved("size_a=100", "size_b=64", profile="smoke").configs == [(100, 64)]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["num_trials=0"], "num_trials: 0"),
        (["size_a=100"], "size_b: size_a is set without size_b"),
        (["size_b=100"], "size_b: 100 size_b is set without size_a"),
        (["size_a=0", "size_b=64"], "size_a: 0"),
        (["sizes=[[512]]"], "sizes.0"),
        (["sizes=[]"], "sizes"),
        (["sizes=[[64,64],[64,64]]"], "holds an entry twice"),
        (["sizes=[[512,8]]"], "sizes.0.1: 8"),
        (["procedures=[guessed]"], "procedures.0: 'guessed'"),
        (["procedures=[]"], "procedures"),
        (["settle_ms=-1"], "settle_ms: -1"),
        (["warmup_tokens=0"], "warmup_tokens: 0"),
        (["max_output_tokens=1.5"], "max_output_tokens: 1.5"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(overrides, says):
    with pytest.raises(InputError) as caught:
        resolved(*overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_beyond_the_context_are_refused_with_what_fits():
    params = resolved("sizes=[[512,256],[900,100]]")
    with pytest.raises(InputError, match=r"sizes: \[900, 100\] .* together they may have 886"):
        check(params, 1000)
    check(params, 1000 + 64 + 50)
    check(params, None)
    with pytest.raises(InputError, match="sizes"):
        check(resolved("warmup_tokens=500"), 1000)


def test_the_modules_command_is_that_of_kvlab_run():
    assert command(["--size-a", "512", "--size-b=256"]) == [
        "run", "prefix_hit_miss", "--set", "size_a=512", "--set", "size_b=256"
    ]  # fmt: skip
    assert command(["--profile", "smoke", "--strict"]) == [
        "run",
        "prefix_hit_miss",
        "--profile",
        "smoke",
        "--strict",
    ]


def test_what_a_run_costs_is_told():
    facts = EXPERIMENT.plan(resolved(), None).costs
    assert facts["as_written trials"] == 1 + 2 * 11
    assert facts["verified trials"] == 3 * 11
    assert facts["generations"] == 1 + 2 * 22 + 4 * 33 + 11
