import json

import pytest
import yaml

from kvlab.errors import InputError
from kvlab.experiments import get
from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
from kvlab.experiments.batch_benchmark.plan import trimming
from tests.conftest import ROOT

BENCHMARK = get("batch_benchmark")


def params(**changes):
    return BatchBenchmarkParams(**{"sizes": [8, 16], **changes})


def test_the_plan_is_the_same_every_time_and_sizes_ascend():
    chosen = params(sizes=[20, 10], repeats=2)
    plan = BENCHMARK.plan(chosen)
    assert plan == BENCHMARK.plan(chosen)
    assert [t.planned["size"] for t in plan] == [10] * 10 + [20] * 10
    assert len({t.trial_id for t in plan}) == 20


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"sizes": []}, "sizes"),
        ({"sizes": [8, 8]}, "twice"),
        ({"sizes": [0]}, "outside"),
        ({"strategies": ["shared_prefix", "shared_prefix"]}, "twice"),
        ({"strategies": ["prefix"]}, "strategies"),
        ({"rate_per_s": 0.0}, "rate_per_s"),
        ({"mode": "burst"}, "mode"),
        (
            {"sizes": [8, 200], "target_requests": 100},
            "target_requests: 100 is less than the largest of sizes",
        ),
    ],
)
def test_bad_values_are_one_line(changes, word):
    with pytest.raises(InputError, match=word):
        BatchBenchmarkParams.check({"sizes": [8], **changes})


def test_a_prompt_or_a_conversation_beyond_the_context_is_refused():
    BENCHMARK.check(params(prompt_tokens=300, strategies=["shared_prefix"]), 400)
    with pytest.raises(InputError, match="prompt_tokens"):
        BENCHMARK.check(params(prompt_tokens=390, strategies=["shared_prefix"]), 400)
    long = params(prompt_tokens=300, strategies=["conversation"], sizes=[2000], concurrency=2)
    with pytest.raises(InputError, match="trim_interval"):
        BENCHMARK.check(long, 4096)


def test_trimming_comes_from_a_context_limit_run_where_one_is_given(tmp_path):
    assert trimming(params()) == (50, 40)
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"results": {"recommended": {"TRIM_INTERVAL": 75, "KEEP_MESSAGES": 50}}}))
    assert trimming(params(context_limit_summary=str(path))) == (75, 50)
    path.write_text("{}")
    with pytest.raises(InputError, match="recommends no TRIM_INTERVAL"):
        trimming(params(context_limit_summary=str(path)))
    with pytest.raises(InputError, match="no JSON file"):
        trimming(params(context_limit_summary=str(tmp_path / "absent.json")))


def test_the_profiles_are_valid():
    for name in ("default", "smoke"):
        layers = [
            yaml.safe_load((ROOT / f"params/batch_benchmark/{n}.yaml").read_text()) for n in ("default", name)
        ]
        BatchBenchmarkParams.check({**layers[0], **layers[1]})
