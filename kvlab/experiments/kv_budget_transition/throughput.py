"""What a session got done in the time that passed: pauses, retries and lost attempts included."""

import sqlite3
from typing import Any

_QUERY = """
SELECT r.session_id AS session, count(*) AS requests, count(p.request_id) AS answers,
       sum(p.completion_tokens) AS completion_tokens,
       (max(coalesce(m.done_ns, m.sent_ns)) - min(m.sent_ns)) / 1e9 AS elapsed_s
FROM requests r JOIN telemetry m USING (request_id) LEFT JOIN responses p USING (request_id)
WHERE r.measured = 1 GROUP BY r.session_id ORDER BY r.session_id
"""

COLUMNS = ("session", "requests", "answers", "elapsed_s", "answers_per_min", "completion_tokens_per_s")


def sessions(sql: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return one row a session: `COLUMNS`; a rate is ``None`` where no time passed.

    ``elapsed_s`` runs from the first request sent to the last one ended. Sessions do not share a
    clock, and between them nothing was asked: there is no total.
    """
    found = []
    for row in sql.execute(_QUERY):
        values = dict(row)
        tokens, elapsed_s = values.pop("completion_tokens"), values["elapsed_s"]
        some = elapsed_s is not None and elapsed_s > 0
        values["answers_per_min"] = values["answers"] / elapsed_s * 60 if some else None
        values["completion_tokens_per_s"] = tokens / elapsed_s if some and tokens is not None else None
        found.append(values)
    return found
