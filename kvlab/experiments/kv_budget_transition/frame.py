"""The answers of a run as one frame: what was asked, what the cache held, what came back, what it scored."""

import json
import sqlite3
from collections.abc import Collection
from typing import Any

import pandas as pd

from kvlab.experiments.kv_budget_transition import throughput
from kvlab.experiments.kv_budget_transition.asked import ANSWERED

_QUERY = """
SELECT r.request_id, r.run_id, r.trial_id, r.arm, r.attempt, r.phase, r.example_id,
       json_extract(x.meta_json, '$.context_id') AS context_id,
       json_extract(x.meta_json, '$.task') AS task,
       json_extract(x.meta_json, '$.metric') AS metric,
       x.answers_json AS answers, e.bin_idx, e.token_len, e.ordinal,
       u.kv_policy AS policy, u.kv_budget AS budget, k.n_context, k.n_planned, k.n_kept_json, k.cache_bytes,
       k.peak_memory_bytes, k.memory_reason, k.evidence,
       p.text, p.finish_reason, p.prompt_tokens, p.completion_tokens,
       json_extract(p.usage_json, '$.completion_token_ids') AS token_ids,
       f.error_type, f.message AS error_message, f.request_id IS NOT NULL AS failed,
       s.em, s.f1, s.contains, coalesce(f.error_type, s.outcome) AS outcome, s.scorer,
       (m.first_token_ns - m.sent_ns) / 1e6 AS ttft_ms,
       (m.done_ns - m.sent_ns) / 1e6 AS latency_ms,
       m.sent_ns, m.done_ns, r.session_id
FROM requests r
JOIN telemetry m USING (request_id)
JOIN runs u USING (run_id)
JOIN examples x USING (example_id)
JOIN manifest_entries e USING (example_id)
LEFT JOIN kv_budgets k USING (request_id)
LEFT JOIN responses p USING (request_id)
LEFT JOIN failures f USING (request_id)
LEFT JOIN scores s USING (request_id)
WHERE r.measured = 1
ORDER BY e.ordinal, r.phase, u.kv_policy, u.kv_budget DESC, r.arm, r.attempt
"""

_NUMBERS = (
    "budget", "n_context", "n_planned", "cache_bytes", "peak_memory_bytes", "prompt_tokens", "completion_tokens",
    "em", "f1", "contains", "ttft_ms", "latency_ms",
)  # fmt: skip


def answers(sql: sqlite3.Connection, query_mode: str) -> pd.DataFrame:
    """Return one row for each answer: the last attempt of each request, with its score.

    An answer out of a shared prefill has no latency of its own, as it has no TTFT. ``asked`` is the
    budget as the parameters write it; ``budget`` is the same fraction, and for a number of entries its
    share of the mean context, so that budgets have one order (`shares`). ``frame.attrs`` holds what the
    plan promised (``examples``, ``trials``), ``attempts`` (rows in all), ``added`` (the refinement's
    decisions) and ``sessions`` (what each session got done in its time).
    """
    frame = pd.DataFrame([dict(row) for row in sql.execute(_QUERY)], columns=_columns(sql))
    frame[[*_NUMBERS]] = frame[[*_NUMBERS]].astype(float)
    frame["failed"] = frame["failed"].astype(bool)
    frame["latency_ms"] = frame["latency_ms"].where(frame["ttft_ms"].notna())
    frame["query_mode"] = query_mode
    frame[ANSWERED] = frame["outcome"].isna().astype(float)  # a failure's outcome is its error
    frame["asked"] = frame["budget"]
    frame["budget"] = frame["asked"].map(shares(sql, set(frame["asked"].dropna()))).astype(float)
    kept = frame["n_kept_json"].map(_kept)
    frame["n_kept_min"] = kept.map(lambda layers: min(layers, default=float("nan")))
    frame["n_kept_max"] = kept.map(lambda layers: max(layers, default=float("nan")))
    attempts = len(frame)
    frame = frame.drop_duplicates(["example_id", "phase", "arm"], keep="last").reset_index(drop=True)
    frame.attrs.update({"attempts": attempts, "added": added(sql)})
    frame.attrs.update(planned(sql))
    frame.attrs["sessions"] = throughput.sessions(sql)
    return frame


def shares(sql: sqlite3.Connection, budgets: Collection[float]) -> dict[float, float]:
    """Return where each budget stands among the others: a number of entries as its share of the mean context.

    It is a share of no context in particular, and is never reported: a number of entries keeps its name.
    """
    mean = sql.execute("SELECT avg(token_len) FROM manifest_entries").fetchone()[0]
    found = {budget: budget for budget in budgets if budget <= 1}
    for number in sorted(set(budgets) - set(found)):
        share = number / mean
        while share in found.values():  # two budgets, though they may be one in the mean
            share -= 1e-6
        found[number] = share
    return found


def _columns(sql: sqlite3.Connection) -> list[str]:
    return [column[0] for column in sql.execute(f"{_QUERY} LIMIT 0").description]


def _kept(text: Any) -> list[int]:  # noqa: ANN401 - a cell, NaN where there is none
    return list(json.loads(text)) if isinstance(text, str) else []


def added(sql: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return the refinement's decisions, in order."""
    return [
        dict(row) for row in sql.execute("SELECT round, budget, reason FROM added_budgets ORDER BY round")
    ]


def planned(sql: sqlite3.Connection) -> dict[str, int]:
    """Return how many examples, bins and trials were planned, and how many trials are done."""
    examples = sql.execute("SELECT count(*) FROM manifest_entries").fetchone()[0]
    rows = dict(tuple(row) for row in sql.execute("SELECT status, count(*) FROM trials GROUP BY status"))
    bins = sql.execute("SELECT count(*) FROM bins").fetchone()[0]
    return {
        "examples": examples,
        "bins": bins,
        "trials": sum(rows.values()),
        "trials_done": rows.get("done", 0),
    }
