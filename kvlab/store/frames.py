"""Reading a run's database into pandas, with the derived times."""

import re
import sqlite3
from typing import Any

import numpy as np
import pandas as pd

from kvlab.timing.stamps import BUNDLED, STOOD_STILL

#: The columns of ``requests.csv``, the same for every experiment; empty where unknown.
REQUEST_COLUMNS = (
    "request_id", "trial_id", "arm", "point", "repeat", "prompt_tokens", "completion_tokens",
    "cached_tokens", "cache_state", "ttft_ms", "latency_ms", "status", "error_type",
    "sent_ns", "first_token_ns", "done_ns",
    "attempt", "used", "target_tokens", "predicted_cached_tokens", "shared_tokens", "cache_source",
    "cache_reason", "tpot_ms", "server_queue_ms", "server_prefill_ms", "server_decode_ms", "server_ttft_ms",
    "finish_reason", "first_byte_ns", "first_content_ns", "last_token_ns", "events", "sent_utc", "session_id",
    "error_message", "cache_reset", "completion_token_ids", "item", "send_lag_ms", "machine_busy_share",
    "untimed",
)  # fmt: skip

_QUERY = """
SELECT r.request_id, r.trial_id, r.arm, t.point, t.repeat, r.attempt, r.target_tokens, r.sent_utc, r.session_id, r.item,
       CASE WHEN r.item IS NULL THEN t.status = 'done' AND t.attempts = r.attempt ELSE r.final END AS used,
       CASE WHEN f.request_id IS NULL THEN 'ok' ELSE 'failed' END AS status,
       f.error_type, f.message AS error_message,
       p.prompt_tokens, p.completion_tokens, p.cached_tokens, p.predicted_cached_tokens, p.shared_tokens,
       p.cache_state, p.cache_source, p.cache_reason, p.finish_reason,
       m.sent_ns, m.first_byte_ns, m.first_token_ns, m.first_content_ns, m.last_token_ns, m.done_ns, m.due_ns,
       m.server_queue_ms, m.server_prefill_ms, m.server_decode_ms, m.server_ttft_ms,
       json_array_length(m.token_ns_json) AS events,
       json_extract(p.evidence_json, '$.reset') AS cache_reset,
       json_extract(p.usage_json, '$.completion_token_ids') AS completion_token_ids,
       busy.share AS machine_busy_share, late.text AS untimed
FROM requests r
JOIN telemetry m USING (request_id)
JOIN sessions s USING (session_id)
LEFT JOIN trials t USING (trial_id)
LEFT JOIN responses p USING (request_id)
LEFT JOIN failures f USING (request_id)
LEFT JOIN (SELECT trial_id, session_id, max(value) AS share FROM observations
           WHERE name = 'foreign_cpu_share' GROUP BY trial_id, session_id) AS busy
       ON busy.trial_id = r.trial_id AND busy.session_id = r.session_id
LEFT JOIN (SELECT request_id, max(text) AS text FROM observations WHERE name = 'untimed' GROUP BY request_id) AS late
       ON late.request_id = r.request_id
WHERE r.measured = 1
ORDER BY m.sent_ns + s.anchor_unix_ns - s.anchor_perf_ns
"""

#: How a column that the database does not hold is made of those that it does.
_DERIVED = {
    "ttft_ms": "(telemetry.first_token_ns - telemetry.sent_ns) / 1e6",
    "latency_ms": "(telemetry.done_ns - telemetry.sent_ns) / 1e6, unless the client stood still",
    "tpot_ms": "(telemetry.last_token_ns - telemetry.first_token_ns) / 1e6 / (events - 1), where events carry one token each",
    "send_lag_ms": "(telemetry.sent_ns - telemetry.due_ns) / 1e6",
    "used": "trials.status is done and trials.attempts = requests.attempt; of many items: requests.final",
    "status": "ok where responses has the request, failed where failures has it",
    "error_message": "failures.message",
    "events": "length of telemetry.token_ns_json",
    "machine_busy_share": "observations, foreign_cpu_share of the trial in its session",
    "untimed": "observations, untimed",
    "cache_reset": "responses.evidence_json, reset",
    "completion_token_ids": "responses.usage_json, completion_token_ids",
}
_TABLES = {"r": "requests", "t": "trials", "f": "failures", "p": "responses", "m": "telemetry"}


def stored_as(column: str) -> str:
    """Return where the database holds a column of `requests`, or how it is derived."""
    if column in _DERIVED:
        return _DERIVED[column]
    found = re.search(rf"\b([rtfpm])\.{column}\b", _QUERY)
    return f"{_TABLES[found[1]]}.{column}" if found else column


_INTEGERS = frozenset((
    "prompt_tokens", "completion_tokens", "cached_tokens", "predicted_cached_tokens", "shared_tokens", "item",
    "target_tokens", "repeat", "first_byte_ns", "first_token_ns", "first_content_ns", "last_token_ns", "done_ns", "due_ns",
))  # fmt: skip
_COUNTS = frozenset(("sent_ns", "attempt", "session_id", "events", "used"))  # never missing
_TIMES = frozenset(
    ("server_queue_ms", "server_prefill_ms", "server_decode_ms", "server_ttft_ms", "machine_busy_share")
)
_ROWS = 20_000


def requests(sql: sqlite3.Connection) -> pd.DataFrame:
    """Return every measured request, in the order of sending: `REQUEST_COLUMNS`, missing as NA.

    ``used`` says whether a row is of the attempt that its trial's result comes from; in a trial of many
    items, whether it is its item's final one. ``machine_busy_share`` is what other processes
    took of the processors while the request's trial was measured. ``untimed`` says why there is no
    time to first token; where it is that this client stood still, ``done_ns`` is late, and there is no latency. ``ttft_ms`` is sent to first token, ``latency_ms`` sent to
    done, ``tpot_ms`` the mean gap between arrivals of tokens, where each carried one: (last - first) /
    (events - 1), ``send_lag_ms`` due to sent. ``cache_reset`` is what the engine answered when told
    to empty its cache just before; ``completion_token_ids`` is a JSON list, where the engine gives token ids.
    ``frame.attrs["database"]`` is the database's file, for an experiment that keeps more than requests.

    Built column by column out of pieces of the result: a dictionary a row would take gigabytes for the
    hundreds of thousands of rows of a load test.
    """
    cursor = sql.execute(_QUERY)
    names = [column[0] for column in cursor.description]
    parts: dict[str, list[Any]] = {name: [] for name in names}
    while rows := cursor.fetchmany(_ROWS):
        for name, values in zip(names, zip(*rows, strict=True), strict=True):
            parts[name].append(_array(name, values))
    frame = pd.DataFrame({name: _column(name, found) for name, found in parts.items()})
    del parts
    frame["used"] = frame["used"].fillna(0).astype(bool)
    frame["cache_reset"] = frame["cache_reset"].astype("boolean")
    frame["ttft_ms"] = _ms(frame, "sent_ns", "first_token_ns")
    frame["latency_ms"] = _ms(frame, "sent_ns", "done_ns")
    late = [str(why or "").startswith(STOOD_STILL) for why in frame["untimed"]]
    frame["latency_ms"] = frame["latency_ms"].mask(pd.Series(late, frame.index, dtype=bool))
    frame["send_lag_ms"] = _ms(frame, "due_ns", "sent_ns")
    frame["tpot_ms"] = _tpot_ms(frame)
    frame = frame[[*REQUEST_COLUMNS]]
    frame.attrs["database"] = sql.execute("PRAGMA database_list").fetchone()[2]
    return frame


def _array(name: str, values: tuple[Any, ...]) -> Any:  # noqa: ANN401 - an array of whatever kind
    """Return a piece of a column in as little memory as its kind allows."""
    if name in _INTEGERS:
        return pd.array(values, dtype="Int64")
    if name in _COUNTS:
        return np.array([0 if value is None else value for value in values], dtype=np.int64)
    if name in _TIMES or name == "cache_reset":
        return np.array(values, dtype=float)  # None becomes NaN
    return pd.array(values, dtype="str")


def _column(name: str, parts: list[Any]) -> "pd.Series[Any]":
    if not parts:
        return pd.Series(_array(name, ()))
    whole = pd.concat([pd.Series(part) for part in parts], ignore_index=True)
    # Where nothing is known there is no kind, either.
    return (
        whole.astype(object).where(whole.notna(), None)
        if whole.isna().all() and name not in _INTEGERS
        else whole
    )


def _tpot_ms(frame: pd.DataFrame) -> "pd.Series[float]":
    """Return `kvlab.timing.stamps.tpot_ms` of every row."""
    tokens = frame["completion_tokens"].to_numpy(dtype=float, na_value=np.nan)
    gaps = frame["events"].to_numpy(dtype=float) - 1
    fewest = tokens - 1 - np.maximum(BUNDLED * (tokens - 1), tokens > 3)  # `fewest_gaps`
    told = (gaps >= 1) & (gaps >= fewest) & (gaps <= tokens - 1)  # False where a count is unknown
    return _ms(frame, "first_token_ns", "last_token_ns") / pd.Series(gaps, frame.index, "Float64").where(told)


def _ms(frame: pd.DataFrame, start: str, end: str) -> "pd.Series[float]":
    return (frame[end].astype("Int64") - frame[start].astype("Int64")).astype("Float64") / 1e6


def observations(sql: sqlite3.Connection, name: str | None = None) -> pd.DataFrame:
    """Return what was stored by `kvlab.store.database.Database.observe`, in the order in which it was seen.

    Args:
        sql: The database.
        name: Only those of this name; ``None``: all.

    Returns:
        Columns trial_id, request_id, session_id, t_ns, name, value (float, NaN where there is none), text.
    """
    query = """SELECT o.trial_id, o.request_id, o.session_id, o.t_ns, o.name, o.value, o.text
        FROM observations o JOIN sessions s USING (session_id) WHERE ?1 IS NULL OR o.name = ?1
        ORDER BY o.t_ns + s.anchor_unix_ns - s.anchor_perf_ns, o.observation_id"""
    cursor = sql.execute(query, (name,))
    names = [column[0] for column in cursor.description]
    frame = pd.DataFrame([tuple(row) for row in cursor], columns=names)
    return frame.astype({"value": float})


def integrity(sql: sqlite3.Connection) -> list[str]:
    """Return what is wrong with the database; empty: every request has one answer or one failure."""
    checks = {
        "requests with neither a response nor a failure": """SELECT count(*) FROM requests r WHERE
            NOT EXISTS (SELECT 1 FROM responses p WHERE p.request_id = r.request_id) AND
            NOT EXISTS (SELECT 1 FROM failures f WHERE f.request_id = r.request_id)""",
        "requests with both": "SELECT count(*) FROM responses JOIN failures USING (request_id)",
        "requests without telemetry": """SELECT count(*) FROM requests r WHERE
            NOT EXISTS (SELECT 1 FROM telemetry m WHERE m.request_id = r.request_id)""",
    }
    counts = {name: int(sql.execute(query).fetchone()[0]) for name, query in checks.items()}
    return [f"{count} {name}" for name, count in counts.items() if count]
