from pathlib import Path

from benchmarks import kv_sweep
from benchmarks.__main__ import _sweep_line


def test_without_the_kvpress_environment_the_sweep_says_so_in_one_line(monkeypatch):
    monkeypatch.setattr(kv_sweep, "PYTHON", Path("/nowhere/python"))
    found = kv_sweep.run()
    assert found is None
    assert _sweep_line(found).strip() == kv_sweep.SKIPPED
    assert "make conformance" in kv_sweep.SKIPPED
