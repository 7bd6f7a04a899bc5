"""A load generator that stood still: its stamps say when it came back."""

import signal
import time

import psutil
import pytest

from benchmarks.servers.process import FakeServer
from kvlab.store import frames
from tests.load.bench import Bench, recorder_of, start, until


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs SIGSTOP")
def test_what_was_on_its_way_is_marked_and_no_time_is_made_of_it(tmp_path):
    bench = Bench(tmp_path)
    with FakeServer(base_ms=60, itl_ms=1) as server:
        process = start(bench, bench.job(server.base_url, 60))
        until(lambda: len(bench.final()) >= 8)
        generator = psutil.Process(recorder_of(process).pid).children()[0]
        generator.suspend()
        time.sleep(0.6)
        generator.resume()
        assert process.wait(timeout=30) == 0
    rows = frames.requests(bench.database.sql)
    marked = rows["untimed"].notna()
    assert len(rows) == 60
    assert marked.any()
    assert rows.loc[marked, "untimed"].str.startswith("this client stood still for ").all()
    assert rows.loc[marked, ["ttft_ms", "latency_ms", "tpot_ms"]].isna().all(axis=None)
    assert rows.loc[marked, "done_ns"].notna().all(), "the latest moment that is possible"
    assert rows.loc[~marked, ["ttft_ms", "latency_ms"]].notna().all(axis=None)
