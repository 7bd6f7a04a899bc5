"""What a batch benchmark reads from the database beside its requests."""

import json
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kvlab.vram import timeline

if TYPE_CHECKING:
    from kvlab.runs.data import RunData

_ROWS = 5_000
#: Texts that neither the summary nor a figure reads: of 170,000 requests, 60 MB of them.
_TEXTS = [
    "request_id",
    "point",
    "sent_utc",
    "cache_reason",
    "cache_source",
    "finish_reason",
    "completion_token_ids",
]


@dataclass
class Load:
    """The requests without their texts, the stretches, memory, and the gaps between tokens.

    Attributes:
        requests: Every measured request (`kvlab.store.frames.requests`), but for its texts.
        stretches: One row per start of the generator: trial_id, session_id, ended, and the parsed
            ``before``, ``after`` (server counters), ``generator``, ``state``; ``None`` where missing.
        memory: `kvlab.vram.timeline.samples`.
        windows: `kvlab.vram.timeline.windows`.
        memory_reasons: Why a sampler saw nothing, by its name.
        itl_ms: By trial, the gaps between the tokens of each final, answered request, in milliseconds.
    """

    requests: pd.DataFrame
    stretches: pd.DataFrame
    memory: pd.DataFrame
    windows: pd.DataFrame
    memory_reasons: dict[str, str] = field(default_factory=dict)
    itl_ms: dict[str, "np.typing.NDArray[np.float32]"] = field(default_factory=dict)


def read(data: "RunData") -> Load:
    """Read it all."""
    sql = data.sql
    rows = [_stretch(dict(row)) for row in sql.execute("SELECT * FROM load_stretches ORDER BY stretch_id")]
    columns = ["trial_id", "session_id", "ended", "before", "after", "generator", "state"]
    reasons: dict[str, str] = {}
    for text in timeline.monitors(sql)["reasons_json"]:
        reasons |= json.loads(text)
    return Load(
        data.take_requests(without=_TEXTS),
        pd.DataFrame(rows, columns=columns),
        timeline.samples(sql),
        timeline.windows(sql),
        reasons,
        gaps_ms(sql),
    )


def _stretch(row: dict[str, Any]) -> dict[str, Any]:
    parsed = {
        name: json.loads(row[f"{name}_json"]) if row[f"{name}_json"] else None
        for name in ("before", "after", "generator", "state")
    }
    return {**parsed, **{name: row[name] for name in ("trial_id", "session_id", "ended")}}


def gaps_ms(sql: sqlite3.Connection) -> dict[str, "np.typing.NDArray[np.float32]"]:
    """Return the gaps between tokens by trial; millions of them, so they are parsed in bulk."""
    found: dict[str, list[Any]] = {}
    cursor = sql.execute(
        """SELECT r.trial_id, m.token_ns_json FROM requests r JOIN telemetry m USING (request_id)
        JOIN responses p USING (request_id) WHERE r.final = 1 ORDER BY r.trial_id, r.item"""
    )
    while rows := cursor.fetchmany(_ROWS):
        for trial_id in dict.fromkeys(row[0] for row in rows):
            # Lists of whole numbers; to parse them as JSON, and then to count, takes three times as long.
            texts = [row[1][1:-1] for row in rows if row[0] == trial_id and len(row[1]) > 2]
            lengths = np.array([text.count(",") + 1 for text in texts], dtype=np.int64)
            stamps = np.fromstring(",".join(texts), dtype=np.int64, sep=",")
            gaps = np.diff(stamps)
            inside = np.ones(len(gaps), bool)
            borders = np.cumsum(lengths)[:-1] - 1  # from one request's last token to the next one's first
            inside[borders[(borders >= 0) & (borders < len(gaps))]] = False
            found.setdefault(trial_id, []).append((gaps[inside] / 1e6).astype(np.float32))
    return {trial_id: np.concatenate(parts) for trial_id, parts in found.items()}
