import os
import signal
import subprocess
import sys
import threading

import pytest

from kvlab.store.database import Database
from kvlab.vram import Monitor, ProcessTree, Reading, Sample, Unavailable, timeline, usage
from kvlab.vram.pictures import memory_over_time
from tests.command.tool import until
from tests.store.test_database import fill


class Scripted:
    """Answers a list of byte counts, the last one for ever."""

    name, reason = "scripted", None

    def __init__(self, *values):
        self.values, self.closed = list(values), 0

    def read(self):
        value = self.values.pop(0) if len(self.values) > 1 else self.values[0]
        return [Reading("scripted", value)]

    def close(self):
        self.closed += 1


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "run.sqlite", create=True) as found:
        fill(found)
        yield found


def test_it_reads_at_its_pace_in_a_thread_of_its_own_and_counts_the_cost():
    before = threading.active_count()
    with Monitor([Scripted(1)], interval_s=0.005) as monitor:
        assert threading.active_count() == before + 1
        until(lambda: monitor.cost().reads >= 5, 10)
    assert threading.active_count() == before
    cost = monitor.cost()
    assert 0 < cost.mean_ms <= cost.max_ms
    assert 0 < cost.busy_fraction < 1
    assert len(monitor.drain()) == cost.reads
    assert monitor.drain() == []


def test_stopping_twice_closes_once():
    sampler = Scripted(1)
    monitor = Monitor([sampler]).start()
    monitor.stop()
    monitor.stop()
    assert sampler.closed == 1


def test_baseline_peak_and_delta_of_a_window():
    monitor = Monitor([Scripted(5, 10, 90, 30, 99)], interval_s=60)
    with monitor:
        with monitor.window("t") as window:
            monitor.read_now()
        (found,) = usage(monitor.drain(), window.start_ns, window.end_ns)
    assert (found.baseline_bytes, found.peak_bytes, found.end_bytes) == (10, 90, 30)
    assert (found.delta_bytes, found.samples) == (80, 3)


def test_a_window_outside_all_samples_says_nothing():
    assert usage([Sample(5, "a", 1, None)], 6, 9) == []


def test_the_timeline_is_in_the_database_with_trials_and_cost(database):
    samplers = [Scripted(100, 100, 700, 300), Unavailable("it runs elsewhere")]
    with Monitor(samplers, interval_s=60) as monitor:
        with monitor.window("t0") as window:
            monitor.read_now()
        timeline.record(database, 1, monitor, [window])
    timeline.record(database, 1, monitor)
    frame = timeline.samples(database.sql)
    assert frame["used_bytes"].tolist() == [100, 100, 700, 300, 300]
    assert frame["t_s"].iloc[0] == 0
    assert frame["t_s"].is_monotonic_increasing
    (row,) = timeline.windows(database.sql).to_dict("records")
    assert (row["name"], row["baseline_bytes"], row["peak_bytes"], row["delta_bytes"]) == (
        "t0",
        100,
        700,
        600,
    )
    (kept,) = timeline.monitors(database.sql).to_dict("records")
    assert kept["reads"] == 5
    assert "it runs elsewhere" in kept["reasons_json"]


def test_an_open_window_is_refused_and_nothing_is_written(database):
    with (
        Monitor([Scripted(1)], interval_s=60) as monitor,
        monitor.window("t0") as window,
        pytest.raises(ValueError, match="has not ended"),
    ):
        timeline.record(database, 1, monitor, [window])
    assert len(timeline.samples(database.sql)) == 0


def test_two_sessions_are_one_timeline(database):
    """After a restart of the machine perf_counter starts again from 0: only the date orders sessions."""
    database.begin_session("e", "later", 2)
    database.sql.execute(
        "UPDATE sessions SET anchor_perf_ns = 0, anchor_unix_ns = 1000000000 WHERE session_id = 1"
    )
    database.sql.execute(
        "UPDATE sessions SET anchor_perf_ns = 500, anchor_unix_ns = 3000000500 WHERE session_id = 2"
    )
    for session, t_ns, used in ((1, 7_000_000_000, 10), (2, 6_000_000_000, 20)):
        database.insert("memory_samples", session_id=session, t_ns=t_ns, series="a", used_bytes=used)
    frame = timeline.samples(database.sql)
    assert frame["used_bytes"].tolist() == [10, 20]
    assert frame["t_s"].tolist() == [0.0, 1.0]


def test_the_figure_has_a_line_a_series_and_a_mark_a_trial(database):
    with Monitor([ProcessTree(os.getpid()), Scripted(1, 2)], interval_s=60) as monitor:
        with monitor.window("t0") as window:
            pass
        timeline.record(database, 1, monitor, [window])
    figure = memory_over_time(timeline.samples(database.sql), timeline.windows(database.sql))
    (axes,) = figure.axes
    assert {"process rss", "scripted"} <= {text.get_text() for text in axes.texts}
    assert len(axes.patches) == 1


def test_the_figure_of_nothing_says_so(database):
    figure = memory_over_time(timeline.samples(database.sql), timeline.windows(database.sql))
    assert "no memory could be read" in figure.axes[0].texts[0].get_text()


def test_what_was_recorded_survives_sigkill(tmp_path):
    path = tmp_path / "run.sqlite"
    code = (
        "import time; from pathlib import Path; from kvlab.store.database import Database\n"
        "from kvlab.vram import Monitor, timeline\n"
        "from tests.store.test_database import fill\nfrom tests.vram.test_monitor import Scripted\n"
        f"d = Database(Path({str(path)!r}), create=True); fill(d)\n"
        "m = Monitor([Scripted(7)], interval_s=60).start(); timeline.record(d, 1, m)\n"
        "print('stored', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "stored\n"
        os.kill(process.pid, signal.SIGKILL)
    with Database(path) as database:
        assert timeline.samples(database.sql)["used_bytes"].tolist() == [7]
