"""What people read above a column: words and a unit, made from the column's name."""

from typing import TYPE_CHECKING

from kvlab.findings import StoredTable, Table

if TYPE_CHECKING:
    from kvlab.report.shown import Shown

_UNITS = {
    "ms": "ms", "s": "s", "pct": "%", "bytes": "bytes", "mib": "MiB", "gib": "GiB", "tokens": "tokens",
    "per_s": "per s", "ns": "ns",
}  # fmt: skip
_WORDS = {
    "ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "kv": "KV", "id": "ID", "csv": "CSV", "utc": "UTC", "n": "n",
    "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99", "api": "API", "mde": "MDE",
}  # fmt: skip


def header(column: str) -> str:
    """Return ``ttft_cold_ms`` as ``TTFT cold (ms)``; a name that is not in this form stays as it is."""
    if not column or not column.replace("_", "").isalnum() or column != column.lower():
        return column
    parts, unit = column.split("_"), ""
    for size in (2, 1):
        tail = "_".join(parts[-size:])
        if len(parts) > size and tail in _UNITS:
            parts, unit = parts[:-size], f" ({_UNITS[tail]})"
            break
    words = " ".join(_WORDS.get(part, part) for part in parts)
    return words[:1].upper() + words[1:] + unit


def headers(table: StoredTable) -> list[str]:
    """Return what the report shows above each column."""
    return [table.headers.get(column) or header(column) for column in table.columns]


def readable(table: Table) -> "Shown":
    """Return a table for people: readable headers, a dash where a value is missing, nothing cut off."""
    from kvlab.report.shown import Shown  # takes a while

    stored = table.stored()
    # As objects first: whole numbers beside a missing one would become 54129100.0.
    frame = Shown(stored.rows, columns=headers(stored), dtype=object)
    return frame if frame.empty else frame.convert_dtypes()
