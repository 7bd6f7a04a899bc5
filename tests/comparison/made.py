"""Stored runs with a known truth: the golden token sweep under another name, its times drawn anew."""

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np

from kvlab.store.database import Database
from tests.golden import stored

#: What every run made here has named before it was measured.
NAMED = {"compare_metric": "hit.ttft_ms", "compare_margin": 0.05, "starts": 1}


def run(
    outputs: Path,
    name: str,
    *,
    factor: float = 1.0,
    noise: float = 0.02,
    seed: int = 0,
    copies: int = 1,
    starts: tuple[float, ...] = (),
    contract: dict[str, Any] | None = None,
    params: dict[str, Any] | None = None,
    sql: str = "",
    identity: dict[str, Any] | None = None,
) -> Path:
    """Make ``outputs/2026-01-01/<name>``: hit TTFT is what the point takes, times ``factor`` and log-normal noise.

    ``starts``: the factor of each engine start; trials are spread over them in turn. ``copies``: each trial so
    often, under ids of its own.
    """
    folder = stored.copy("token_sweep", outputs / "2026-01-01" / name)
    Database(folder / "run.sqlite").close()  # the golden run is of an earlier schema
    rng = np.random.default_rng(seed)
    with sqlite3.connect(folder / "run.sqlite") as db:
        row = db.execute("SELECT params_json, contract_json FROM experiments").fetchone()
        given = {**json.loads(row[0]), **NAMED, **(params or {})}
        said = {**json.loads(row[1]), **(contract or {})}
        db.execute(
            "UPDATE experiments SET params_json = ?, contract_json = ?, isolation_id = ?",
            (json.dumps(given), json.dumps(said), name),
        )
        _times(db, rng, factor, noise, starts)
        for number in range(1, copies):
            _again(db, number)
        if copies > 1:
            _times(db, rng, factor, noise, starts)
        if sql:
            db.executescript(sql)
    db.close()
    if identity:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["endpoint_identity"] |= identity
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _times(
    db: sqlite3.Connection, rng: "np.random.Generator", factor: float, noise: float, starts: tuple[float, ...]
) -> None:
    rows = db.execute(
        "SELECT m.request_id, m.sent_ns, r.arm, r.target_tokens, r.trial_id, t.ordinal FROM telemetry m "
        "JOIN requests r USING (request_id) JOIN trials t USING (trial_id) ORDER BY m.sent_ns"
    ).fetchall()
    db.execute("DELETE FROM observations WHERE name = 'engine_start'")
    session = db.execute("SELECT max(session_id) FROM sessions").fetchone()[0]
    for request, sent, arm, tokens, trial, ordinal in rows:
        start = ordinal % 100 * len(starts) // 16 if starts else 0
        scale = (starts[start] if starts else 1.0) * (factor if arm == "hit" else 1.0)
        usual = (20 if arm == "hit" else 100) * (1 + tokens / 1000)
        first = sent + int(1e6 * usual * scale * math.exp(noise * rng.standard_normal()))
        db.execute(
            "UPDATE telemetry SET first_byte_ns = ?, first_token_ns = ?, first_content_ns = ?, last_token_ns = ?, "
            "done_ns = ?, token_ns_json = ? WHERE request_id = ?",
            (first, first, first, first + 3_000_000, first + 3_100_000,
             json.dumps([first + k * 1_000_000 for k in range(4)]), request),
        )  # fmt: skip
        if starts and arm == "hit":
            db.execute(
                "INSERT INTO observations (session_id, trial_id, t_ns, name, text) VALUES (?, ?, ?, 'engine_start', ?)",
                (session, trial, sent, f"start-{start}"),
            )


def _again(db: sqlite3.Connection, number: int) -> None:
    """Repeat every trial of the golden run under other ids."""
    db.execute("PRAGMA foreign_keys = OFF")
    mark = f"-x{number}"
    db.execute(f"""INSERT INTO trials SELECT trial_id || '{mark}', run_id, ordinal + {100 * number}, point,
        repeat + {100 * number}, planned_json, status, attempts FROM trials WHERE trial_id NOT LIKE '%-x%'""")
    for table in ("telemetry", "responses", "failures", "requests"):
        columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        chosen = [
            f"request_id || '{mark}'" if c == "request_id" else f"trial_id || '{mark}'" if c == "trial_id"
            else f"{c} + {number * 10**12}" if c.endswith("_ns") else c
            for c in columns
        ]  # fmt: skip
        db.execute(
            f"INSERT INTO {table} SELECT {', '.join(chosen)} FROM {table} WHERE request_id NOT LIKE '%-x%' "
            "AND request_id IN (SELECT request_id FROM requests WHERE trial_id NOT NULL)"
        )
