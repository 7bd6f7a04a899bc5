"""The memory timeline in a run's database: written trial by trial, read as frames."""

import sqlite3
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from kvlab.store.database import Database, to_json
from kvlab.vram.monitor import Monitor, Sample, Window, usage

if TYPE_CHECKING:
    import pandas as pd


def record(database: Database, session_id: int, monitor: Monitor, windows: Sequence[Window] = ()) -> None:
    """Store what a monitor has read since the last call, and the windows that have ended; one transaction.

    Raises:
        ValueError: A window has not ended.
    """
    samples = monitor.drain()
    with database.transaction():
        database.sql.executemany(
            "INSERT INTO memory_samples VALUES (?, ?, ?, ?, ?)", [(session_id, *sample) for sample in samples]
        )
        for window in windows:
            if window.end_ns is None:
                raise ValueError(f"the window {window.name} has not ended")
            database.insert("memory_windows", session_id=session_id, **asdict(window))
        database.sql.execute("DELETE FROM memory_monitors WHERE session_id = ?", (session_id,))
        database.insert(
            "memory_monitors",
            session_id=session_id,
            interval_s=monitor.interval_s,
            reasons_json=to_json(monitor.reasons()),
            **asdict(monitor.cost()),
        )


def samples(sql: sqlite3.Connection) -> "pd.DataFrame":
    """Return all samples in the order of time.

    Columns: session_id, series, used_bytes, total_bytes, t_ns (perf_counter), and t_s: seconds since
    the run's first sample, over all sessions.
    """
    return _read(
        sql,
        f"""SELECT m.session_id, series, used_bytes, total_bytes, t_ns, (t_ns + {_OFFSET} - {_FIRST}) / 1e9 AS t_s
        FROM memory_samples m JOIN sessions s USING (session_id) ORDER BY t_s, series""",  # noqa: S608
    )


def windows(sql: sqlite3.Connection) -> "pd.DataFrame":
    """Return the windows with what each series did in them; a window without samples has none of these rows.

    Columns: session_id, name, attempt, start_s, end_s (as ``t_s`` of `samples`), series, and
    baseline_bytes, peak_bytes, end_bytes, delta_bytes (peak above baseline), samples.
    """
    import pandas as pd

    marks = _read(
        sql,
        f"""SELECT w.*, (start_ns + {_OFFSET} - {_FIRST}) / 1e9 AS start_s,
        (end_ns + {_OFFSET} - {_FIRST}) / 1e9 AS end_s
        FROM memory_windows w JOIN sessions s USING (session_id) ORDER BY start_s, name""",  # noqa: S608
    )
    rows = []
    for mark in marks.to_dict("records"):
        inside = sql.execute(
            "SELECT t_ns, series, used_bytes, total_bytes FROM memory_samples "
            "WHERE session_id = ? AND t_ns BETWEEN ? AND ? ORDER BY t_ns",
            (mark["session_id"], mark["start_ns"], mark["end_ns"]),
        )
        kept = {key: mark[key] for key in ("session_id", "name", "attempt", "start_s", "end_s")}
        for found in usage([Sample(*row) for row in inside], mark["start_ns"], mark["end_ns"]):
            rows.append({**kept, **asdict(found), "delta_bytes": found.delta_bytes})
    columns = (
        "session_id", "name", "attempt", "start_s", "end_s", "series",
        "baseline_bytes", "peak_bytes", "end_bytes", "delta_bytes", "samples",
    )  # fmt: skip
    return pd.DataFrame(rows, columns=list(columns))


def monitors(sql: sqlite3.Connection) -> "pd.DataFrame":
    """Return what sampling cost, and why samplers saw nothing (``reasons_json``), a session a row."""
    return _read(sql, "SELECT * FROM memory_monitors ORDER BY session_id")


# From a session's perf_counter to the date, and the date of the run's first sample.
_OFFSET = "(s.anchor_unix_ns - s.anchor_perf_ns)"
_FIRST = """(SELECT min(f.t_ns + g.anchor_unix_ns - g.anchor_perf_ns)
    FROM memory_samples f JOIN sessions g USING (session_id))"""


def _read(sql: sqlite3.Connection, query: str) -> "pd.DataFrame":
    import pandas as pd  # a second, and most of kvlab needs none

    cursor = sql.execute(query)
    return pd.DataFrame([tuple(row) for row in cursor], columns=[column[0] for column in cursor.description])
