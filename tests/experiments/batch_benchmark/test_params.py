import json
import resource

import pytest
import yaml

from kvlab.errors import InputError
from kvlab.experiment import EngineFacts
from kvlab.experiments import get
from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
from kvlab.params import resolve
from tests.conftest import ROOT

BENCHMARK = get("batch_benchmark")


def check(chosen, max_model_len):
    BENCHMARK.check(chosen, BENCHMARK.plan(chosen, None), EngineFacts(max_model_len))


def params(**changes):
    return BatchBenchmarkParams(**{"sizes": [8, 16], **changes})


def test_the_plan_is_the_same_every_time_and_sizes_ascend():
    chosen = params(sizes=[20, 10], repeats=2)
    plan = BENCHMARK.plan(chosen, None).trials
    assert BENCHMARK.plan(chosen, None) == BENCHMARK.plan(chosen, None)
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
    check(params(prompt_tokens=300, strategies=["shared_prefix"]), 400)
    with pytest.raises(InputError, match="prompt_tokens"):
        check(params(prompt_tokens=390, strategies=["shared_prefix"]), 400)
    long = params(prompt_tokens=300, strategies=["conversation"], sizes=[2000], concurrency=2)
    with pytest.raises(InputError, match="trim_interval"):
        check(long, 4096)


def test_more_connections_than_the_system_allows_are_refused(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100, 164))
    check(params(concurrency=200), None)  # sixteen requests never need more than sixteen
    many = {"sizes": [500], "concurrency": 100, "concurrent_start_at_most": 100}
    check(params(**many), None)
    for field in ("concurrency", "concurrent_start_at_most"):
        with pytest.raises(InputError, match=rf"^{field}: 101 would open 101 connections.* 100; lower it"):
            check(params(**many | {field: 101}), None)
        check(params(**many | {field: 101, "max_connections": 50}), None)


def resolved(*overrides):
    return resolve(BatchBenchmarkParams, "batch_benchmark", overrides=overrides)


def test_trimming_is_read_once_from_a_context_limit_run_and_is_the_runs_own(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    path.write_text(json.dumps({"results": {"recommended": {"TRIM_INTERVAL": 75, "KEEP_MESSAGES": 50}}}))
    monkeypatch.chdir(tmp_path)
    found, sources = resolved("context_limit_summary=summary.json", "trim_interval=3")
    assert (found.trim_interval, found.keep_messages, found.context_limit_summary) == (75, 50, None)
    assert sources["trim_interval"] == sources["keep_messages"] == "context_limit_summary summary.json"
    path.unlink()
    again = BatchBenchmarkParams.check(
        found.model_dump()
    )  # what a kernel elsewhere, a resume and a report do
    assert again == found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "recommends no TRIM_INTERVAL"),
        ('{"trim_interval": true, "keep_messages": 4}', "recommends no TRIM_INTERVAL"),
        ('{"trim_interval": 0, "keep_messages": 4}', "recommends no TRIM_INTERVAL"),
        ('{"trim_interval": 5, "keep_messages": -1}', "recommends no TRIM_INTERVAL"),
        ("[", "is not a JSON file"),
        (None, "is not a JSON file"),
    ],
)
def test_a_summary_without_trimming_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "summary.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=rf"^context_limit_summary: .*{words}"):
        resolved(f"context_limit_summary={path}")


def test_the_profiles_are_valid():
    for name in ("default", "smoke"):
        layers = [
            yaml.safe_load((ROOT / f"params/batch_benchmark/{n}.yaml").read_text()) for n in ("default", name)
        ]
        BatchBenchmarkParams.check({**layers[0], **layers[1]})
