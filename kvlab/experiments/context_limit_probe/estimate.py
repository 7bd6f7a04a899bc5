"""What the probes of a run say: brackets, bytes per token by a straight line, and constants to paste."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from kvlab.endpoints.connect import Identity
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, QUALITY, Probe
from kvlab.experiments.context_limit_probe.outcomes import WORDS, ProbeOutcome
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.search import Bracket, bracket, confirmed, first_loss, in_tokens
from kvlab.stats.slopes import slope_interval
from kvlab.vram.kv_bytes import KvLayout

#: Fewer points than this are no line worth an interval.
MIN_POINTS = 4
#: A question is asked so many exchanges below the limit, at most.
_NEAR_EXCHANGES = 3


@dataclass(frozen=True)
class Line:
    """An ordinary least-squares line, memory in bytes over context in tokens.

    Attributes:
        slope: Bytes per token, with ``low`` and ``high`` from `kvlab.stats.slopes`: right where what an allocator took
            stays in all later points.
        intercept: Bytes at 0 tokens: the loaded model.
        r_squared: Share of the variance that the line explains.
        max_residual_bytes: Largest distance of a point from the line.
        grown_bytes: Growth from the first point to the last, along the line.
        points: How many, from ``first_tokens`` to ``last_tokens``.
        layout: Which layers keep what, where some have a window: the line then goes over what they hold
            (`KvLayout.steps`), not over tokens, and ``slope`` is what a token takes once windows are full.
    """

    slope: float
    low: float
    high: float
    intercept: float
    r_squared: float
    max_residual_bytes: float
    grown_bytes: float
    points: int
    first_tokens: int
    last_tokens: int
    layout: KvLayout | None = None

    @property
    def residual_fraction(self) -> float:
        """Return the largest residual as a share of the growth."""
        return self.max_residual_bytes / self.grown_bytes if self.grown_bytes > 0 else float("inf")

    def bytes_at(self, tokens: int) -> float:
        """Return the memory that a context of so many tokens takes, the model included."""
        return self.intercept + self.slope * (tokens if self.layout is None else self.layout.steps(tokens))

    def tokens_in(self, free_bytes: float) -> int | None:
        """Return how many tokens fit into so much memory beside the model; ``None``: any number of them."""
        if self.slope <= 0:
            return 0
        steps = max(0.0, free_bytes / self.slope)
        found = steps if self.layout is None else self.layout.tokens_of(steps)
        return None if found is None else int(found)


def fit_line(tokens: Sequence[float], held_bytes: Sequence[float], confidence: float) -> Line | None:
    """Fit a line (`scipy.stats.linregress`); ``None``: too few points, or all of one length."""
    if len(tokens) < MIN_POINTS or len(set(tokens)) < MIN_POINTS:
        return None
    from scipy import stats  # a second to import

    x, y = np.asarray(tokens, dtype=float), np.asarray(held_bytes, dtype=float)
    found = stats.linregress(x, y)
    interval = slope_interval(tokens, held_bytes, confidence=confidence)
    slope, intercept = float(found.slope), float(found.intercept)
    return Line(
        slope=slope,
        low=slope if interval.low is None else interval.low,
        high=slope if interval.high is None else interval.high,
        intercept=intercept,
        r_squared=float(found.rvalue) ** 2,
        max_residual_bytes=float(np.abs(y - intercept - slope * x).max()),
        grown_bytes=slope * float(x.max() - x.min()),
        points=len(x),
        first_tokens=int(x.min()),
        last_tokens=int(x.max()),
    )


def held_bytes(probe: Probe) -> int:
    """Return what a child held: on a card what its tensors take, else its resident memory."""
    return int(probe.detail.get("held_bytes", probe.detail.get("rss_bytes", 0)))


def layout_of(probes: Sequence[Probe], dtype: str) -> KvLayout | None:
    """Return which layers keep what, as a child's model told it; ``None``: not known."""
    known = [
        probe.detail["kv_layout"] for probe in probes if probe.target == dtype and "kv_layout" in probe.detail
    ]
    return KvLayout(**known[-1]) if known else None


def longest_child(probes: Sequence[Probe], dtype: str) -> list[Probe]:
    """Return the held probes of the one child that got furthest: two processes are two intercepts."""
    children: dict[tuple[int, str], list[Probe]] = {}
    for probe in probes:
        if probe.target == dtype and probe.held and "rss_bytes" in probe.detail:
            children.setdefault((probe.session_id, probe.trial_id), []).append(probe)
    return max(children.values(), key=lambda held: (len(held), held[-1].tokens), default=[])


def fit_child(probes: Sequence[Probe], dtype: str, from_tokens: int, confidence: float) -> Line | None:
    """Return the line of a precision's child; ``None``: it did not grow far enough."""
    held = [held_bytes(probe) for probe in _fitted(probes, dtype, from_tokens)]
    return _fit(probes, dtype, from_tokens, confidence, held)


def tensor_slope(probes: Sequence[Probe], dtype: str, from_tokens: int) -> float | None:
    """Return bytes per token by the cache's own account of its tensors; ``None``: it does not tell."""
    held = _fitted(probes, dtype, from_tokens)
    told = [int(probe.detail["cache_bytes"]) for probe in held if probe.detail.get("cache_bytes")]
    line = _fit(probes, dtype, from_tokens, 0.95, told) if len(told) == len(held) else None
    return None if line is None else line.slope


def _fitted(probes: Sequence[Probe], dtype: str, from_tokens: int) -> list[Probe]:
    return [probe for probe in longest_child(probes, dtype) if probe.tokens >= from_tokens]


def _fit(
    probes: Sequence[Probe], dtype: str, from_tokens: int, confidence: float, values: Sequence[float]
) -> Line | None:
    tokens, layout = [probe.tokens for probe in _fitted(probes, dtype, from_tokens)], layout_of(probes, dtype)
    if layout is None or not layout.window_layers:
        return fit_line(tokens, values, confidence)
    line = fit_line([layout.steps(n) for n in tokens], values, confidence)
    if line is None:
        return None
    return replace(line, first_tokens=min(tokens), last_tokens=max(tokens), layout=layout)


# Constants --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constant:
    """One constant.

    Attributes:
        rule: How its value came about, with the figures.
    """

    name: str
    value: int
    rule: str


@dataclass(frozen=True)
class Measured:
    """What the constants are made from, in tokens.

    Attributes:
        maximum: The measured maximum context.
        because: What ends there.
        system: The part that no trim removes, the request that is asked included.
        growth: The most that one exchange (a request and its answer) has added.
    """

    maximum: int
    because: str
    system: int
    growth: float


def recommend(measured: Measured, params: ContextLimitProbeParams) -> list[Constant]:
    """Return MAX_CONTEXT_TOKENS, CONTEXT_TRIM_THRESHOLD, TRIM_INTERVAL and KEEP_MESSAGES, in this order.

    The maximum stays strictly below the safe share of what was measured. After a trim the context is
    the fixed part and the kept messages; an interval later it has grown by one interval's exchanges
    and must still be within the threshold.

    An empty list: the context is so short that no exchange fits beside what a trim keeps.
    """
    safe = params.safe_fraction
    largest = math.ceil(safe * measured.maximum) - 1
    threshold = math.floor(params.trim_threshold_fraction * largest)
    target = math.floor(params.trim_target_fraction * threshold)
    kept = max(1, math.floor((target - measured.system) / measured.growth))
    interval = math.floor((threshold - measured.system - kept * measured.growth) / measured.growth)
    if interval < 1:
        return []
    growth = f"{measured.growth:.0f} tokens"
    return [
        Constant(
            "MAX_CONTEXT_TOKENS",
            largest,
            f"the largest whole number below {safe:.0%} of the measured maximum of {measured.maximum:,} tokens "
            f"({measured.because})",
        ),
        Constant(
            "CONTEXT_TRIM_THRESHOLD",
            threshold,
            f"{params.trim_threshold_fraction:.0%} of MAX_CONTEXT_TOKENS: one more answer fits before the maximum",
        ),
        Constant(
            "TRIM_INTERVAL",
            interval,
            f"exchanges from one trim to the next: from the {kept} that are kept up to the threshold, at {growth} "
            "an exchange (the most that was measured)",
        ),
        Constant(
            "KEEP_MESSAGES",
            2 * kept,
            f"{kept} exchanges of 2 messages, at least one: what fits into {params.trim_target_fraction:.0%} of the "
            f"threshold ({target:,} tokens) beside {measured.system} fixed tokens, at {growth} an exchange",
        ),
    ]


def value(constants: Sequence[Constant], name: str) -> int:
    """Return one constant's value (KeyError: there is none of that name)."""
    return {constant.name: constant.value for constant in constants}[name]


# All of it --------------------------------------------------------------------------------------------


@dataclass
class Estimate:
    """What a run says; ``None`` where it does not.

    Attributes:
        endpoint: Between which lengths the endpoint's limit lies.
        quality: Between which lengths the facts at the start are lost.
        children: Precision → bracket and line.
        growth_per_exchange: Tokens that one exchange added between neighbouring points, the most.
        system_tokens: The context of no exchange: fixed part and request.
        maximum: The context that still works; ``None``: none does, or what is used of it is unknown.
        because: What ends it, or why it is unknown.
        constants: Empty where there is not a maximum, or it is too short to trim within.
    """

    probes: list[Probe]
    endpoint: Bracket
    quality: Bracket
    children: dict[str, tuple[Bracket, Line | None]]
    growth_per_exchange: float | None
    system_tokens: int | None
    maximum: int | None
    because: str
    constants: list[Constant] = field(default_factory=list)

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
        """Return the bytes per token that a precision's line is compared with; ``None``: the layout is not known."""
        value = self.detail(dtype, "theory_bytes_per_token")
        return int(value) if value else None

    def detail(self, target: str, name: str) -> Any:  # noqa: ANN401 - JSON
        """Return the last value of a detail that a target's probes carry; ``None``: none does."""
        values = [
            probe.detail[name] for probe in self.probes if probe.target == target and name in probe.detail
        ]
        return values[-1] if values else None


def estimate(probes: Sequence[Probe], params: ContextLimitProbeParams) -> Estimate:
    """Return what the probes say, and the constants that follow."""
    probes = in_tokens(probes)
    endpoint = bracket(confirmed([probe for probe in probes if probe.target == ENDPOINT]))
    quality = first_loss([probe for probe in probes if probe.target == QUALITY])
    children: dict[str, tuple[Bracket, Line | None]] = {
        dtype: (
            bracket([probe for probe in probes if probe.target == dtype]),
            fit_child(probes, dtype, params.fit_from_tokens, params.confidence),
        )
        for dtype in params.dtypes
    }
    growth, fixed = _exchange_tokens(probes)
    maximum, because = _maximum(endpoint, quality, params.needles > 0, growth)
    found = Estimate(list(probes), endpoint, quality, children, growth, fixed, maximum, because, constants=[])
    if maximum is not None and growth is not None and fixed is not None:
        found.constants = recommend(Measured(maximum, because, fixed, growth), params)
    return found


def _maximum(
    endpoint: Bracket, quality: Bracket, asked: bool, growth: float | None
) -> tuple[int | None, str]:
    """Return the context that still works, and what ends it: the server's limit, or quality before it.

    Args:
        endpoint: What the server accepts.
        quality: Where the facts at the start are answered.
        asked: Whether they are asked for.
        growth: Tokens of one exchange: the question is asked a few of them below the limit.
    """
    if endpoint.held is None:
        return None, "no context was accepted"
    limit = (
        WORDS[endpoint.failed.outcome or ProbeOutcome.RUN_ENDED]
        if endpoint.failed
        else "nothing longer was tried"
    )
    if not asked:
        return endpoint.low, f"{limit}; whether its start is still answered was not asked: needles=0"
    if quality.held is None:
        # Accepted is not used: a model that reads nothing accepts the most.
        return (
            None,
            "the facts at the start were answered at no length, so what of a context is used is unknown",
        )
    if quality.failed is not None and quality.failed.tokens <= endpoint.low:
        return quality.held.tokens, WORDS[ProbeOutcome.QUALITY_LOST]
    if growth is None or endpoint.low - quality.held.tokens > _NEAR_EXCHANGES * growth:
        return quality.held.tokens, "the facts at the start were asked for at no longer context"
    return endpoint.low, limit


def _exchange_tokens(probes: Sequence[Probe]) -> tuple[float | None, int | None]:
    """Return the most tokens that an exchange adds, and the tokens without any, from neighbouring points.

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


def expected_tokens(found: Estimate, identity: Identity | None) -> int | None:
    """Return the context that the server promises: its maximum, or its cache, if that holds less."""
    stated = identity.max_model_len if identity is not None else None
    cache = (found.detail(ENDPOINT, "capacity") or {}).get("tokens")
    known = [int(value) for value in (stated, cache) if value]
    return min(known, default=None)
