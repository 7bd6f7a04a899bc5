"""What the samplers saw of the server while the context grew."""

import json
import sqlite3
from dataclasses import dataclass
from typing import Self

import pandas as pd

from kvlab.experiments.context_limit_probe.estimate import Estimate
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT
from kvlab.vram import timeline

MIB = 2**20
#: A server grows with its context where each token takes at least this share of what it takes in theory,
_SHARE = 0.25
#: or, where no theory is known, this much: every model with a cache has more.
_BYTES = 1024
_WHOSE = {
    "server_rss": "The server's resident memory",
    "nvml_process": "The server's memory on the card",
    "nvml_device": "All memory in use on the card, whoever holds it,",
}


@dataclass(frozen=True)
class Memory:
    """The memory timeline of a run (`kvlab.vram.timeline`)."""

    samples: pd.DataFrame
    windows: pd.DataFrame
    monitors: pd.DataFrame

    @classmethod
    def read(cls, sql: sqlite3.Connection) -> Self:
        """Read it from a run's database."""
        return cls(timeline.samples(sql), timeline.windows(sql), timeline.monitors(sql))

    def why_not(self, session_id: int | None = None) -> str:
        """Return why samplers saw nothing, in one session or in any."""
        rows = (
            self.monitors if session_id is None else self.monitors[self.monitors["session_id"] == session_id]
        )
        reasons = {text for each in rows["reasons_json"] for text in json.loads(each).values()}
        return "; ".join(sorted(reasons)) or "nothing was sampled"

    def growth_in_words(self, found: Estimate) -> list[str]:
        """Return whether the server took its memory when it started; nothing where nothing was seen or stated."""
        lines = []
        if (found.detail(ENDPOINT, "capacity") or {}).get("blocks"):
            lines.append(
                "The server states that it allocated its KV cache when it started: no line is fitted to its memory, and "
                "bytes per token come from a process in which they do grow."
            )
        known = sorted(s for s in set(self.windows["series"]) if str(s).partition(":")[0] in _WHOSE)
        return lines + [text for series in known if (text := self._of_series(found, series)) is not None]

    def _of_series(self, found: Estimate, series: str) -> str | None:
        """Return what one series did from the shortest to the longest context that was held."""
        held = sorted((p for p in found.probes if p.target == ENDPOINT and p.held), key=lambda p: p.tokens)
        if len(held) < 2 or held[-1].tokens == held[0].tokens or held[0].session_id != held[-1].session_id:
            return None
        windows = self.windows[self.windows["series"] == series]
        first, last = (
            windows[(windows["name"] == p.trial_id) & (windows["session_id"] == p.session_id)]
            for p in (held[0], held[-1])
        )
        if first.empty or last.empty:
            return None
        tokens = held[-1].tokens - held[0].tokens
        grown = int(last["peak_bytes"].max()) - int(first["baseline_bytes"].iloc[0])
        per_token = grown / tokens
        theory = next((value for dtype in found.children if (value := found.theory_bytes(dtype))), None)
        seen = (
            f"{_WHOSE[series.partition(':')[0]]} grew by {grown / MIB:,.0f} MiB while the context grew by {tokens:,} tokens "
            f"({per_token:,.0f} bytes per token)"
        )
        if per_token < (_BYTES if theory is None else _SHARE * theory):
            return f"{seen}: its cache was allocated when it started, and a longer context only uses more of what is there."
        return f"{seen}: it grew with use, by memory that is taken as needed or by pages that were touched for the first time."
