"""Runs of the experiment on an imitated engine: its cache is real, its times mean nothing."""

import pytest

from kvlab import session as labs
from kvlab.endpoints import engines
from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams
from tests.fakes.offline import FakeOffline

SMALL = {
    "sizes": [[70, 48], [100, 48]],
    "num_trials": 5,
    "warmup_trials": 1,
    "max_output_tokens": 4,
    "settle_ms": 0,
}


@pytest.fixture
def params():
    return PrefixHitMissParams(**SMALL)


@pytest.fixture
def open_fake(monkeypatch):
    """Open a lab on an imitated engine; a second time in the same folder resumes it."""

    def open_lab(llm=None, run_dir="", **changes):
        engine = FakeOffline(llm)
        monkeypatch.setattr(engines, "module", lambda _: type("M", (), {"open_engine": lambda *_: engine}))
        return labs.open_lab("prefix_hit_miss", {"profile": "test", "run_dir": run_dir, **SMALL, **changes})

    return open_lab


@pytest.fixture
def measured(open_fake):
    """Run everything; returns the finished lab's folder, frame and summary."""

    def run(llm=None, **changes):
        lab = open_fake(llm, **changes)
        for trial in lab.pending():
            lab.measure(trial)
        frame = lab.frame()
        return lab.folder, frame, lab.finish()

    return run
