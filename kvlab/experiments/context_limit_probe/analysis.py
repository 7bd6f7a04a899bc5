"""From the requests and the ledger of a run to its findings."""

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.experiments.context_limit_probe import constants as rules
from kvlab.experiments.context_limit_probe import ledger
from kvlab.experiments.context_limit_probe.growth import Line, fit_child
from kvlab.experiments.context_limit_probe.ledger import (
    ENDPOINT,
    QUALITY,
    Bracket,
    Probe,
    bracket,
    first_loss,
    settled,
)
from kvlab.experiments.context_limit_probe.outcomes import WORDS, Outcome
from kvlab.experiments.context_limit_probe.scale import in_tokens
from kvlab.stats.intervals import Interval
from kvlab.vram import timeline

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams


@dataclass(frozen=True)
class Memory:
    """The memory timeline of a run (`kvlab.vram.timeline`)."""

    samples: pd.DataFrame
    windows: pd.DataFrame
    monitors: pd.DataFrame

    def why_not(self, session_id: int | None = None) -> str:
        """Return why samplers saw nothing, in one session or in any."""
        rows = (
            self.monitors if session_id is None else self.monitors[self.monitors["session_id"] == session_id]
        )
        reasons = {text for each in rows["reasons_json"] for text in json.loads(each).values()}
        return "; ".join(sorted(reasons)) or "nothing was sampled"


@dataclass
class Findings:
    """What a run says; ``None`` where it does not.

    Attributes:
        endpoint: Between which lengths the endpoint's limit lies.
        quality: Between which lengths the facts at the start are lost.
        children: Precision → bracket and line.
        growth_per_exchange: Tokens that one exchange added between neighbouring points, the most.
        system_tokens: The context of no exchange: fixed part and request.
        constants: Empty where there is no limit, or it is too short to trim within.
    """

    probes: list[Probe]
    endpoint: Bracket
    quality: Bracket
    children: dict[str, tuple[Bracket, Line | None]]
    growth_per_exchange: float | None
    system_tokens: int | None
    maximum: int | None
    because: str
    constants: list[rules.Constant] = field(default_factory=list)

    @property
    def width(self) -> int | None:
        """Tokens between the largest accepted and the smallest refused prompt."""
        if self.endpoint.failed is None or self.endpoint.held is None:
            return None
        return self.endpoint.failed.tokens - self.endpoint.held.tokens

    @property
    def children_tried(self) -> bool:
        """Whether a child process was started in any precision."""
        return any(probe.target in self.children for probe in self.probes)

    @property
    def held_in_words(self) -> str:
        """What the children's lines are fitted to."""
        devices = {self.detail(dtype, "device") for dtype in self.children}
        return "What tensors take on the card" if "cuda" in devices else "Resident memory"

    def theory_bytes(self, dtype: str) -> int | None:
        """Return the bytes a token that a precision's line is compared with; ``None``: the layout is not known."""
        value = self.detail(dtype, "theory_bytes_per_token")
        return int(value) if value else None

    def detail(self, target: str, name: str) -> Any:  # noqa: ANN401 - JSON
        """Return the last value of a detail that a target's probes carry; ``None``: none does."""
        values = [
            probe.detail[name] for probe in self.probes if probe.target == target and name in probe.detail
        ]
        return values[-1] if values else None


def read_probes(frame: pd.DataFrame) -> list[Probe]:
    """Return the ledger beside a frame of requests; empty where the frame names no database."""
    path = frame.attrs.get("database")
    if not path:
        return []
    with _open(path) as sql:
        return ledger.read(sql)


def read_memory(frame: pd.DataFrame) -> Memory | None:
    """Return the memory timeline beside a frame of requests; ``None`` where it names no database."""
    path = frame.attrs.get("database")
    if not path:
        return None
    with _open(path) as sql:
        return Memory(timeline.samples(sql), timeline.windows(sql), timeline.monitors(sql))


def _open(path: str) -> "closing[sqlite3.Connection]":
    return closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30))


def findings(probes: Sequence[Probe], params: "ContextLimitProbeParams") -> Findings:
    """Return what the probes say, and the constants that follow."""
    probes = in_tokens(probes)
    endpoint = bracket(settled([probe for probe in probes if probe.target == ENDPOINT]))
    quality = first_loss([probe for probe in probes if probe.target == QUALITY])
    children: dict[str, tuple[Bracket, Line | None]] = {
        dtype: (
            bracket([probe for probe in probes if probe.target == dtype]),
            fit_child(probes, dtype, params.fit_from_tokens, params.confidence),
        )
        for dtype in params.dtypes
    }
    growth, fixed = _exchange_tokens(probes)
    maximum, because = _maximum(endpoint, quality)
    found = Findings(list(probes), endpoint, quality, children, growth, fixed, maximum, because, constants=[])
    if maximum is not None and growth is not None and fixed is not None:
        found.constants = rules.recommend(rules.Measured(maximum, because, fixed, growth), params)
    return found


def _maximum(endpoint: Bracket, quality: Bracket) -> tuple[int | None, str]:
    """Return the context that still works, and what ends it: the server's limit, or quality before it."""
    if endpoint.held is None:
        return None, "no context was accepted"
    if quality.failed is not None and quality.held is not None and quality.failed.tokens <= endpoint.low:
        return quality.held.tokens, WORDS[Outcome.QUALITY_LOST]
    if endpoint.failed is None:
        return endpoint.low, "nothing longer was tried"
    return endpoint.low, WORDS[endpoint.failed.outcome or Outcome.RUN_ENDED]


def _exchange_tokens(probes: Sequence[Probe]) -> tuple[float | None, int | None]:
    """Return the most tokens an exchange adds, and the tokens without any, from neighbouring points.

    The prompt of k exchanges is fixed + k · growth (the request of the moment is part of fixed).
    """
    points = sorted(
        {
            (int(p.detail["exchanges"]), p.tokens)
            for p in probes
            if p.target == ENDPOINT and "exchanges" in p.detail
        }
    )
    if len(points) < 2:
        return None, None
    steps = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(points)]
    first = points[0]
    return max(steps), max(0, round(first[1] - first[0] * min(steps)))


def latencies(frame: pd.DataFrame) -> pd.DataFrame:
    """Return TTFT and decode speed against context, a request a row.

    Columns: kind (``growing``: as the conversation grew, ``warm``: a question whose context is in the
    cache, ``cold``: nothing is), prompt_tokens, cached_tokens, ttft_ms, tpot_ms, cache_state, trial_id.
    """
    good = frame[frame["used"] & (frame["status"] == "ok") & frame["prompt_tokens"].notna()]
    kinds = {"probe": "growing", "cold": "cold"}
    part = good[good["arm"].isin(list(kinds)) | good["arm"].astype(str).str.startswith("needle-")]
    columns = ["trial_id", "prompt_tokens", "cached_tokens", "ttft_ms", "tpot_ms", "cache_state"]
    found = part[columns].copy()
    found.insert(1, "kind", [kinds.get(str(arm), "warm") for arm in part["arm"]])
    return found.sort_values(["kind", "prompt_tokens", "trial_id"]).reset_index(drop=True)


def interval_dict(interval: Interval) -> dict[str, Any]:
    """Return an interval for ``summary.json``."""
    names = ("estimate", "low", "high")
    rounded = {
        name: None if getattr(interval, name) is None else round(getattr(interval, name), 1) for name in names
    }
    return {**rounded, "n": interval.n, "reason": interval.reason}


def expected_tokens(found: Findings, identity: Identity | None) -> int | None:
    """Return the context that the server promises: its maximum, or its cache, if that holds less."""
    stated = identity.max_model_len if identity is not None else None
    cache = (found.detail(ENDPOINT, "capacity") or {}).get("tokens")
    known = [int(value) for value in (stated, cache) if value]
    return min(known, default=None)
