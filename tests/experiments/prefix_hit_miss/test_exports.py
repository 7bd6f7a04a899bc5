"""The result files against the schema of the document that this experiment was first described in."""

import json
from numbers import Real

import pytest

from tests.experiments.prefix_hit_miss.synthetic import EXPERIMENT, STORED, TTFT, data, params

STATS = {
    "ttft_mean": Real, "ttft_median": Real, "ttft_stdev": Real, "total_time_mean": Real, "total_time_stdev": Real,
    "throughput_mean": Real, "throughput_stdev": Real, "prompt_tokens": int,
}  # fmt: skip
CONDITION = {"trials": list, "stats": STATS}
SCHEMA = {
    "phase": str,
    "model": str,
    "timestamp": str,
    "config": {
        "context_size_a": int, "context_size_b": int, "max_output_tokens": int, "num_trials": int, "warmup_trials": int,
    },
    "warmup_time_ms": Real,
    "cache_hit": CONDITION,
    "cache_miss": CONDITION,
    "ttft_degradation_pct": Real,
}  # fmt: skip


def matches(value, schema, where="$"):
    if isinstance(schema, dict):
        assert isinstance(value, dict), where
        assert list(value) == list(schema), where
        for key, part in schema.items():
            matches(value[key], part, f"{where}.{key}")
    else:
        assert isinstance(value, schema), where
        assert not isinstance(value, bool), where


def exported(chosen=None, **kwargs):
    chosen = chosen or params(sizes=[[64, 48], [96, 48]])
    return EXPERIMENT.findings(data(chosen, **kwargs), chosen).files


def test_the_files_and_their_names():
    assert set(exported()) == {
        "results_phase2_a64_b48.json", "results_phase2_a96_b48.json",
        "results_phase2_verified_a64_b48.json", "results_phase2_verified_a96_b48.json",
        "experiment1_all_configs_phase2.png", "experiment1_all_configs_phase2_verified.png",
    }  # fmt: skip


def test_as_written_is_the_schema_key_for_key():
    content = json.loads(exported()["results_phase2_a64_b48.json"])
    matches(content, SCHEMA)
    assert content["phase"] == "phase2_python_api"
    assert content["config"] == {
        "context_size_a": 64, "context_size_b": 48, "max_output_tokens": 4, "num_trials": 5, "warmup_trials": 1
    }  # fmt: skip
    assert content["warmup_time_ms"] == 300.0
    assert content["timestamp"] == STORED["created_utc"], (
        "the run's own start, so that a report is reproducible"
    )
    assert len(content["cache_hit"]["trials"]) == len(content["cache_miss"]["trials"]) == 5
    assert content["cache_hit"]["stats"]["prompt_tokens"] == 64 + 48 + 20
    assert content["cache_miss"]["stats"]["prompt_tokens"] == 48 + 20
    hit, miss = (content[f"cache_{name}"]["stats"]["ttft_mean"] for name in ("hit", "miss"))
    assert content["ttft_degradation_pct"] == pytest.approx((miss - hit) / hit * 100, abs=0.01)


def test_a_figure_is_the_same_in_a_file_and_in_the_report():
    """It was worked out of means that had been rounded for the file."""
    chosen = params()
    found = EXPERIMENT.findings(data(chosen, times=dict.fromkeys(TTFT, 0.0124) | {"miss": 0.3333}), chosen)
    for stem, procedure in (("phase2", "as_written"), ("phase2_verified", "verified")):
        content = json.loads(found.files[f"results_{stem}_a64_b48.json"])
        figure = found.results["configs"]["a64_b48"][f"{procedure}_ttft_degradation_pct"]["estimate"]
        assert content["ttft_degradation_pct"] == figure


def test_pictures_are_drawn_only_when_they_are_written():
    pictures = {name: made for name, made in exported().items() if name.endswith(".png")}
    assert len(pictures) == 2
    for made in pictures.values():
        assert made().startswith(b"\x89PNG")


def test_each_as_written_trial_carries_its_cached_tokens():
    content = json.loads(exported()["results_phase2_a64_b48.json"])
    assert [trial["cached_tokens"] for trial in content["cache_miss"]["trials"]] == [64] * 5


def test_verified_is_the_same_schema_and_its_evidence():
    content = json.loads(exported()["results_phase2_verified_a64_b48.json"])
    evidence = content.pop("cache_evidence")
    matches(content, SCHEMA)
    assert content["phase"] == "phase2_verified"
    assert content["ttft_degradation_pct"] > 0
    assert evidence["cached_tokens"] == {"hit": [112] * 5, "miss": [0] * 5, "miss_same_length": [0] * 5}
    assert (evidence["trials_proven"], evidence["trials_planned"]) == (15, 15)
    assert (evidence["resets_confirmed"], evidence["resets_asked"]) == (30, 30)
    assert (evidence["greedy_equal"], evidence["greedy_compared"]) == (5, 5)
    matches(evidence["cache_miss_same_length"], CONDITION)
    assert evidence["ttft_degradation_same_length_pct"] > content["ttft_degradation_pct"]


def test_one_trial_has_no_spread_and_says_so():
    content = json.loads(exported(params(num_trials=1))["results_phase2_a64_b48.json"])
    assert content["cache_hit"]["stats"]["ttft_stdev"] is None


def test_a_condition_without_a_trial_has_no_file():
    def lose(row):
        mine = "as_written.miss" in row["trial_id"]
        return {**row, "status": "failed", "used": False} if mine else row

    assert not [name for name in exported(change=lose) if name.startswith("results_phase2_a")]
