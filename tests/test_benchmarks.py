from pathlib import Path

from benchmarks import kv_sweep, laws, laws_causes, scale


def test_without_the_kvpress_environment_the_sweep_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(kv_sweep, "PYTHON", Path("/nowhere/python"))
    assert kv_sweep.part() == {"skipped": kv_sweep.SKIPPED}
    assert "skipped" in capsys.readouterr().out.splitlines()[-1]
    assert "make conformance" in kv_sweep.SKIPPED


def test_the_whole_path_of_the_scale_benchmark_holds_at_a_small_size():
    (row,) = scale.run((512, 1024), reports=1)
    assert (row["requests"], len(row["report_s_by_round"])) == (1536, 1)
    # Its server keeps every request in memory: whether that goes on rising is what so short a run cannot say.
    assert row["verdict"] in ("PASS", "FAIL") or [name for name in row["not_met"] if "memory" in name], row
    assert (
        min(row[name] for name in ("recorded_per_s", "database_bytes", "report_s", "report_peak_bytes")) > 0
    )


def test_the_laws_benchmark_counts_no_wrong_law_and_no_wrong_cause():
    assert sum(row["wrong_laws"] for row in laws.reuse(8, 4)) == 0
    assert sum(row["wrong"] for row in laws_causes.run(8)) == 0
    assert all(row["inside"] == row["n"] for row in laws.lifetime(8))
    assert {row["false"] for row in laws.sharing(10)} == {0.0}
