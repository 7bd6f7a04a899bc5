import pytest

from kvlab.errors import InputError
from kvlab.experiments import get
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.params import resolve

PROBE = get("context_limit_probe")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"exchanges": [5, 2]}, "exchanges: [5, 2] must rise"),
        ({"exchanges": []}, "exchanges"),
        ({"dtypes": ["int3"]}, "dtypes.0: 'int3'"),
        ({"dtypes": ["float32", "float32"]}, "names a precision twice"),
        ({"safe_fraction": 0.9}, "safe_fraction: 0.9"),
        ({"interval_factors": [2.0]}, "shares of TRIM_INTERVAL"),
        ({"interval_factors": []}, "interval_factors is empty"),
        ({"cold_tokens": [64]}, "from 128 tokens"),
        ({"cards_free_gib": [0.0]}, "above 0 GiB"),
        ({"in_process_tokens": 300}, "fewer than four chunks"),
        ({"in_process_model": ""}, "in_process_model: ''"),
        ({"trim_target_fraction": 1.0}, "trim_target_fraction: 1.0"),
    ],
)
def test_what_cannot_work_is_one_line(changes, said):
    with pytest.raises(InputError, match=r".") as caught:
        ContextLimitProbeParams.check(changes)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("profile", ["smoke", "default"])
def test_the_profiles_are_sound_and_the_plan_is_the_same_every_time(profile):
    params = resolve(ContextLimitProbeParams, "context_limit_probe", profile=profile).params
    found = PROBE.plan(params, None)
    assert found == PROBE.plan(params, None)
    plan = found.trials
    assert len({trial.trial_id for trial in plan}) == len(plan)
    assert params.safe_fraction <= 0.8
    assert len(params.interval_factors) >= 3


def test_the_default_is_the_growth_that_was_planned():
    assert ContextLimitProbeParams().exchanges == [10, 25, 50, 100, 200, 300, 400, 500]
