from pathlib import Path

from benchmarks import kv_sweep


def test_without_the_kvpress_environment_the_sweep_says_so_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(kv_sweep, "PYTHON", Path("/nowhere/python"))
    assert kv_sweep.part() == {"skipped": kv_sweep.SKIPPED}
    assert "skipped" in capsys.readouterr().out.splitlines()[-1]
    assert "make conformance" in kv_sweep.SKIPPED
