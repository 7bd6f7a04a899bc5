"""Whole runs against the fake server, whose cache and counters are real."""

import json

import pandas as pd
import pytest

from benchmarks.servers.process import FakeServer
from kvlab import api, vram
from kvlab.experiments import get
from kvlab.experiments.batch_benchmark import params
from kvlab.experiments.batch_benchmark.data import read
from kvlab.report import build
from kvlab.store import frames

SMALL = {
    "sizes": [16, 32, 64], "prompt_tokens": 200, "handbook_sections": 20, "max_tokens": 4, "concurrency": 4,
    "trim_interval": 3, "keep_messages": 2, "retry_wait_s": 0.05, "retry_max_wait_s": 0.2, "batch_poll_s": 0.1,
    "max_rate_change": 0.9, "max_held_out_miss": 0.9, "max_memory_rise": 0.9, "seed": 1,
}  # fmt: skip


def measure(**changes):
    run = api.open("batch_benchmark", {"profile": "test", **SMALL, **changes})
    run.warm_up()
    for trial in run.pending():
        run.measure(trial)
    return run


def table(summary, name):
    found = next(item for item in summary.tables if item.name == name)
    return pd.DataFrame(found.rows, columns=found.columns)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """One run with every strategy; its folder, frame and summary."""
    with (
        pytest.MonkeyPatch.context() as patch,
        FakeServer(base_ms=5, itl_ms=1, batch_api=True, batch_ms=50) as server,
    ):
        folder = tmp_path_factory.mktemp("whole")
        (folder / "empty.env").touch()
        for name, value in {
            "KVLAB_OUTPUTS": str(folder / "outputs"), "KVLAB_ENV_FILE": str(folder / "empty.env"),
            "OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "EMPTY", "OPENAI_MODEL": "fake",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        run = measure()
        frame = run.requests
        return run.folder, frame, run.finish()


def test_every_request_of_every_strategy_has_one_final_row(whole):
    _, frame, summary = whole
    final = frame[frame["used"]]
    assert len(final) == 5 * (16 + 32 + 64)
    assert not final.duplicated(["trial_id", "item"]).any()
    assert (final["status"] == "ok").all()
    assert summary.verdict == "PASS", summary.reasons


def test_savings_are_the_servers_and_the_control_saves_nothing(whole):
    rows = table(whole[2], "strategies").query("requests == 64").set_index("strategy")
    assert rows.loc["isolated", "savings_pct"] == 0
    assert (rows["savings_from"] == "server counters").all()
    for name in ("shared_prefix", "conversation", "concurrent_start", "batch_api"):
        saved, low, high = rows.loc[name, ["savings_pct", "predicted_pct", "at_most_pct"]]
        assert low - 1e-3 <= saved <= high + 20, name  # a conversation finds its answers, too
    assert rows.loc["shared_prefix", "savings_pct"] > 70


def test_the_largest_size_is_predicted_from_the_smaller_ones(whole):
    found = table(whole[2], "extrapolation").set_index("strategy")
    assert found.loc["shared_prefix", "held_out"] == 64
    assert abs(found.loc["shared_prefix", "miss_pct"]) < 90
    assert found.loc["concurrent_start", "refused"].startswith("all requests are sent at once")


def test_the_memory_of_a_server_on_this_machine_is_seen_and_the_control_controls(whole):
    seen = table(whole[2], "memory")
    assert set(seen["series"]) == {"process_rss"}
    assert set(seen["trial"].str.partition(".")[0]) == set(params.STRATEGIES)
    assert (seen["peak_mib"] > 5).all()
    checks = {check.name: check for check in whole[2].checks}
    assert checks["memory_while_measured"].passed
    assert checks["memory_at_target"].passed is None, "so few requests cannot say it for 170,000"
    known = whole[2].results["memory_at_target"]
    assert (known["is_level"], known["rise_at_most"]) == (None, None)
    assert whole[2].headline.endswith(f"; memory at 170,000 requests is not known: {known['reason']}")
    assert checks["control_is_isolated"].passed


def test_the_folder_has_the_plans_file_and_the_same_bytes_again(whole):
    folder, _, _ = whole
    content = json.loads((folder / "performance_benchmarks.json").read_text())
    shared = content["strategies"]["shared_prefix"]
    assert content["test_sizes"] == [16, 32, 64]
    assert [entry["num_requests"] for entry in shared["results"]] == [16, 32, 64]
    assert shared["extrapolation"]["target_requests"] == 170_000
    assert shared["extrapolation"]["estimated_vram_bytes"] is None, "memory there is not known"
    assert shared["extrapolation"]["vram_refused"]
    names = [
        "requests.csv",
        "summary.json",
        "report.html",
        "performance_benchmarks.json",
        "plots/strategies.png",
    ]
    before = {name: (folder / name).read_bytes() for name in names}
    build.rebuild(folder, get("batch_benchmark"))
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_without_counters_the_answers_tell_and_without_both_nothing_does(point_at):
    small = {"sizes": [8, 32], "strategies": ["shared_prefix", "batch_api"]}
    with FakeServer(base_ms=2, itl_ms=0, metrics=False) as server:
        point_at(server)
        rows = table(measure(**small).finish(), "strategies").set_index(["strategy", "requests"])
    assert rows.loc[("shared_prefix", 32), "savings_from"].startswith("usage of the answers")
    assert rows.loc[("shared_prefix", 32), "savings_pct"] > 50
    assert "not offered by this endpoint" in rows.loc[("batch_api", 32), "savings_from"]
    with FakeServer(base_ms=2, itl_ms=0, metrics=False, usage="no_details") as server:
        point_at(server)
        summary = measure(**small).finish()
    rows = table(summary, "strategies").set_index(["strategy", "requests"])
    assert rows.loc[("shared_prefix", 32), "savings_from"].startswith("not provable on this server")
    assert summary.verdict == "INVALID"


def test_trouble_is_told_apart_from_the_servers_time(point_at):
    storm = {"fault_rate": 0.3, "fault_kind": "status_429", "retry_after_s": 0, "fault_seed": 3}
    with FakeServer(base_ms=5, itl_ms=1) as server:
        point_at(server)
        run = api.open(
            "batch_benchmark", {"profile": "t", **SMALL, "sizes": [64], "strategies": ["shared_prefix"]}
        )
        server.control(**storm)
        for trial in run.pending():
            run.measure(trial)
        summary = run.finish()
    (row,) = table(summary, "failures").to_dict("records")
    assert row["answered"] + row["failed"] == 64
    assert row["sent_again"] > 5
    assert row["failed attempts by kind"].startswith("RATE_LIMITED")
    assert row["failure_s"] > 0.05 * row["sent_again"] * 0.5
    assert row["server_s"] > 0


def test_memory_is_sampled_all_through_a_run(point_at, monkeypatch):
    with FakeServer(base_ms=20, itl_ms=1) as server:
        point_at(server)
        monkeypatch.setattr(vram, "for_process", lambda _: [vram.ProcessTree(server.pid)], raising=False)
        run = measure(sizes=[16, 32], strategies=["shared_prefix"], memory_interval_s=0.02)
        frame, load = run.requests, read(run.data())
        summary = run.finish()
    (series,) = load.memory["series"].unique()
    assert series == "process_rss"
    assert list(load.windows["name"]) == ["shared_prefix.000016.r01", "shared_prefix.000032.r01"]
    for window in load.windows.itertuples():
        inside = load.memory[load.memory["t_s"].between(window.start_s, window.end_s)]
        assert len(inside) >= 3, "several in each trial"
        assert window.baseline_bytes <= window.peak_bytes == inside["used_bytes"].max()
    assert len(frame) == 48
    rows = table(summary, "memory")
    assert list(rows["trial"]) == list(load.windows["name"])
    assert (rows["peak_mib"] > 0).all()
    assert (run.folder / "plots" / "memory.png").is_file()


def test_a_batch_jobs_failures_are_failures(point_at):
    with FakeServer(batch_api=True, batch_ms=30, batch_faults={"3": 500, "5": 429}) as server:
        point_at(server)
        run = measure(sizes=[8], strategies=["batch_api"])
        frame = run.requests
        assert frames.integrity(run.database.sql) == []
        summary = run.finish()
    assert dict(frame["error_type"].value_counts()) == {"ENGINE_ERROR": 1, "RATE_LIMITED": 1}
    assert summary.verdict == "FAIL"
