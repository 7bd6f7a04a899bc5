"""One stretch of load: from a start of the generator to its end, with what the server counted meanwhile."""

import json
import time
from collections.abc import Mapping
from typing import Any

from kvlab.endpoints.connect import Connection, Identity
from kvlab.endpoints.metrics import Scrape
from kvlab.store.database import Database, to_json
from kvlab.timing.clock import now_ns

FINISHED = "vllm:e2e_request_latency_seconds_count"


def counters(connection: Connection, identity: Identity) -> dict[str, float] | None:
    """Return vLLM's counters and gauges as they stand; ``None`` where the server has none."""
    scrape = connection.metrics.scrape() if identity.can("metrics") else None
    return None if scrape is None else _kept(scrape)


def counters_after(
    connection: Connection, identity: Identity, before: Mapping[str, float] | None, answered: int
) -> dict[str, float] | None:
    """Return the counters once they hold ``answered`` more finished requests than ``before``, or after 3 s.

    The server counts a request a moment after its last byte.
    """
    limit = time.monotonic() + 3.0
    found = counters(connection, identity)
    while before is not None and found is not None and time.monotonic() < limit:
        if found.get(FINISHED, 0) - before.get(FINISHED, 0) >= answered:
            break
        time.sleep(0.05)
        found = counters(connection, identity)
    return found


def _kept(scrape: Scrape) -> dict[str, float]:
    names = (name for name in scrape.values if name.startswith("vllm:"))
    return {name: scrape.values[name] for name in names if not name.endswith(("_created", "_info"))}


def begin(
    database: Database,
    trial_id: str,
    session_id: int,
    before: Mapping[str, float] | None,
    state: Mapping[str, Any],
) -> int:
    """Note that a stretch begins. Returns its number."""
    with database.transaction():
        database.insert(
            "load_stretches",
            trial_id=trial_id,
            session_id=session_id,
            started_ns=now_ns(),
            before_json=None if before is None else to_json(before),
            state_json=to_json(state),
        )
        return int(database.sql.execute("SELECT last_insert_rowid()").fetchone()[0])


def end(
    database: Database,
    stretch_id: int,
    why: str,
    after: Mapping[str, float] | None = None,
    generator: Mapping[str, Any] | None = None,
) -> None:
    """Note how it ended."""
    with database.transaction():
        database.sql.execute(
            """UPDATE load_stretches SET ended_ns = ?, ended = ?, after_json = ?, generator_json = ?
            WHERE stretch_id = ?""",
            (
                now_ns(),
                why,
                None if after is None else to_json(after),
                None if generator is None else to_json(generator),
                stretch_id,
            ),
        )


def keep_state(database: Database, stretch_id: int, state: Mapping[str, Any]) -> None:
    """Store what a resume needs, durably on return."""
    with database.transaction():
        database.sql.execute(
            "UPDATE load_stretches SET state_json = ? WHERE stretch_id = ?", (to_json(state), stretch_id)
        )


def last_state(database: Database, trial_id: str) -> dict[str, Any]:
    """Return the state that a trial's last stretch kept; empty: it has none."""
    row = database.sql.execute(
        "SELECT state_json FROM load_stretches WHERE trial_id = ? ORDER BY stretch_id DESC LIMIT 1",
        (trial_id,),
    ).fetchone()
    content = json.loads(row["state_json"] or "{}") if row else {}
    return content if isinstance(content, dict) else {}
