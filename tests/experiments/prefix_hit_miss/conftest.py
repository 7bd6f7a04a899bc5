"""Runs of the experiment on an imitated engine: its cache is real, its times mean nothing."""

import pytest

from benchmarks.servers.offline import FakeOffline
from kvlab import api
from kvlab.endpoints import offline
from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams

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
    """Open a run on an imitated engine; a second time in the same folder resumes it."""

    def open_run(llm=None, run_dir="", **changes):
        engine = FakeOffline(llm)
        monkeypatch.setattr(offline, "open_engine", lambda *_: engine)
        return api.open("prefix_hit_miss", {"profile": "test", "run_dir": run_dir, **SMALL, **changes})

    return open_run


@pytest.fixture
def measured(open_fake):
    """Run everything; returns the finished run's folder, requests and summary."""

    def run(llm=None, **changes):
        session = open_fake(llm, **changes)
        for trial in session.pending():
            session.measure(trial)
        frame = session.requests
        return session.folder, frame, session.finish()

    return run
