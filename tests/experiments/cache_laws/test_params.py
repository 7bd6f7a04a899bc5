import pytest

from kvlab.errors import InputError
from kvlab.experiment import EngineFacts
from kvlab.experiments import get
from kvlab.experiments.cache_laws.params import CacheLawsParams

LAWS = get("cache_laws")


def test_parts_are_measured_in_the_order_in_which_they_need_each_other():
    params = CacheLawsParams(parts=["fidelity", "capacity", "law"])
    assert params.parts == ["law", "capacity", "fidelity"]
    assert [trial.trial_id for trial in LAWS.plan(params, None).trials] == params.parts
    assert all(trial.commit == "each" for trial in LAWS.plan(params, None).trials)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"parts": []}, "parts"),
        ({"parts": ["law", "law"]}, "holds a part twice"),
        ({"parts": ["laws"]}, "parts"),
        ({"start_tokens": 512, "max_prompt_tokens": 256}, "start_tokens: 512 is above max_prompt_tokens"),
        ({"max_part_s": 0.0}, "max_part_s"),
    ],
)
def test_what_cannot_be_is_refused_with_its_name(values, message):
    with pytest.raises(InputError, match=message):
        CacheLawsParams.check(values)


def test_a_price_is_named_for_every_part_that_is_asked_for_and_for_no_other():
    every = LAWS.plan(
        CacheLawsParams(parts=["law", "capacity", "lifetime", "sharing", "fidelity"]), None
    ).costs
    assert all(isinstance(amount, int) for amount in every.values())
    for part in ("law", "capacity", "lifetime", "sharing", "fidelity"):
        assert f"{part}: prompt tokens at most" in every
    alone = LAWS.plan(CacheLawsParams(max_prompt_tokens=1024, max_requests=20), None).costs
    assert alone["law: requests at most"] == 20
    assert alone["prompt tokens at most, in all"] == alone["law: prompt tokens at most"] <= 20 * 1024
    assert not [name for name in alone if name.startswith("capacity")]


def test_a_context_that_cannot_hold_two_short_prompts_is_refused():
    with pytest.raises(InputError, match="lower it below 64"):
        LAWS.check(CacheLawsParams(), None, EngineFacts(128))
    LAWS.check(CacheLawsParams(), None, EngineFacts(1024))
    with pytest.raises(InputError, match="part_prompt_tokens: 512"):
        LAWS.check(CacheLawsParams(parts=["sharing"]), None, EngineFacts(512))
