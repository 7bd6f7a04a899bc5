"""Whether a server took its memory when it started, from what was seen while the context grew."""

from kvlab.experiments.context_limit_probe.analysis import Findings, Memory
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT

#: A server grows with its context where each token takes at least this share of what it takes in theory,
_SHARE = 0.25
#: or, where no theory is known, this much: every model with a cache has more.
_BYTES = 1024
MIB = 2**20
_WHOSE = {
    "server_rss": "The server's resident memory",
    "nvml_process": "The server's memory on the card",
    "nvml_device": "All memory in use on the card, whoever holds it,",
}


def lines(found: Findings, memory: Memory | None) -> list[str]:
    """Return what is to be said of the server's memory; nothing where nothing was seen or stated."""
    said = []
    blocks = (found.detail(ENDPOINT, "capacity") or {}).get("blocks")
    if blocks:
        said.append(
            "The server states that it allocated its KV cache when it started: no line is fitted to its memory, and "
            "bytes a token come from a process in which they do grow."
        )
    said += [text for series in _series(memory) if (text := _of_series(found, memory, series)) is not None]
    return said


def _series(memory: Memory | None) -> list[str]:
    known = set() if memory is None else set(memory.windows["series"])
    return sorted(series for series in known if str(series).partition(":")[0] in _WHOSE)


def _of_series(found: Findings, memory: Memory | None, series: str) -> str | None:
    """Return what one series did from the shortest to the longest context that was held."""
    held = sorted((p for p in found.probes if p.target == ENDPOINT and p.held), key=lambda p: p.tokens)
    if memory is None or len(held) < 2 or held[-1].tokens == held[0].tokens:
        return None
    windows = memory.windows[memory.windows["series"] == series]
    rows = [
        windows[(windows["name"] == p.trial_id) & (windows["session_id"] == p.session_id)]
        for p in (held[0], held[-1])
    ]
    if any(row.empty for row in rows) or held[0].session_id != held[-1].session_id:
        return None
    tokens = held[-1].tokens - held[0].tokens
    grown = int(rows[1]["peak_bytes"].max()) - int(rows[0]["baseline_bytes"].iloc[0])
    per_token = grown / tokens
    theory = next((value for dtype in found.children if (value := found.theory_bytes(dtype))), None)
    seen = (
        f"{_WHOSE[series.partition(':')[0]]} grew by {grown / MIB:,.0f} MiB while the context grew by {tokens:,} tokens "
        f"({per_token:,.0f} bytes a token)"
    )
    if per_token < (_BYTES if theory is None else _SHARE * theory):
        return (
            f"{seen}: its cache was allocated up front, and a longer context only uses more of what is there."
        )
    return f"{seen}: it grew with use, by memory that is taken as needed or by pages that were touched for the first time."
