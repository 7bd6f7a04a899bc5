"""From which tier did cached tokens come? The engine's own cache, or one outside of it.

A hit that is fetched from another machine, from main memory or from a disk costs a transfer, and has other times
than one in the engine's own cache. So the two are told apart where the server's counters do
(``vllm:prompt_tokens_by_source_total``, sources ``local_cache_hit`` and ``external_kv_transfer``), and a report
never sums them.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from kvlab.findings import Findings, Section, Table

if TYPE_CHECKING:
    from kvlab.runs.data import RunData

TITLE = "From which tier?"
_QUERY = """
SELECT CASE WHEN r.item IS NULL THEN r.arm ELSE 'items' END AS arm, count(*) AS requests,
       sum(json_extract(p.evidence_json, '$.local_tokens')) AS local,
       sum(json_extract(p.evidence_json, '$.external_tokens')) AS external,
       sum(json_extract(p.evidence_json, '$.external_tokens') > 0) AS fetched
FROM requests r JOIN responses p USING (request_id)
WHERE r.measured = 1 AND json_extract(p.evidence_json, '$.external_tokens') IS NOT NULL
GROUP BY 1 ORDER BY min(r.rowid)"""
_MOST_ARMS = 20


def said(data: "RunData", found: Findings) -> Findings:
    """Return findings with a table of the tiers, where anything came from an external one."""
    rows = data.sql.execute(_QUERY).fetchall()
    fetched = sum(int(row["fetched"] or 0) for row in rows)
    if not fetched:
        return found
    numbered = len(rows) > _MOST_ARMS  # arms that number their requests
    table = Table(
        name="tiers",
        title=TITLE,
        columns=["arm", "requests", "local_tokens", "external_tokens"],
        rows=[
            {
                "arm": r["arm"],
                "requests": r["requests"],
                "local_tokens": r["local"],
                "external_tokens": r["external"],
            }
            for r in rows[:_MOST_ARMS]
        ],
        headers={"local_tokens": "From the engine's own cache", "external_tokens": "From an external tier"},
        note="By the server's counters, over requests that they could be assigned to. The two have other times: they are "
        f"not summed{f'; the first {_MOST_ARMS} arms are shown' if numbered else ''}.",
    )
    remark = f"{fetched:,} requests read tokens from a tier outside the engine's own cache: their times hold a transfer"
    sections = found.sections and [*found.sections, Section(title=TITLE, tables=["tiers"])]
    return replace(found, tables=[*found.tables, table], remarks=[*found.remarks, remark], sections=sections)
