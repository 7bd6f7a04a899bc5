"""The tables of the report."""

from typing import Any

import pandas as pd

from kvlab.experiments.context_limit_probe.estimate import Estimate, Line, layout_of, tensor_slope
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, QUALITY, Probe
from kvlab.experiments.context_limit_probe.memory import MIB, Memory
from kvlab.experiments.context_limit_probe.outcomes import WORDS
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.findings import Table
from kvlab.stats import means, medians, slopes
from kvlab.vram.kv_bytes import KvLayout

GIB = 2**30
#: Two figures closer than this are the same.
_SAME = 0.005


def tables(
    frame: pd.DataFrame,
    found: Estimate,
    replays: pd.DataFrame,
    memory: Memory,
    params: ContextLimitProbeParams,
) -> list[Table]:
    """Return all tables."""
    return [
        _constants(found),
        _probes(found),
        _quality(found),
        _bytes_per_token(found, params),
        _cards(found, params),
        _trims(replays, params),
        _latency(frame),
        _memory(memory),
    ]


def _constants(found: Estimate) -> Table:
    return Table(
        name="constants",
        title="The constants, and the rule that each came from",
        columns=["constant", "value", "rule"],
        rows=[{"constant": item.name, "value": item.value, "rule": item.rule} for item in found.constants],
        note="Also in recommended.env and recommended.py, to be pasted.",
    )


def _probes(found: Estimate) -> Table:
    return Table(
        name="probes",
        title="Every size that was tried on the endpoint",
        evidence=True,
        columns=["trial", "tokens", "chosen by", "outcome", "the server says"],
        rows=[
            {
                "trial": probe.trial_id,
                "tokens": probe.tokens,
                "chosen by": probe.chosen_by,
                "outcome": _words(probe),
                "the server says": probe.detail.get("message"),
            }
            for probe in found.probes
            if probe.target == ENDPOINT
        ],
    )


def _quality(found: Estimate) -> Table:
    return Table(
        name="quality",
        title="Facts at the start of the context: how many are answered",
        columns=["tokens", "exchanges", "right", "asked", "held"],
        rows=[
            {"tokens": probe.tokens, "held": probe.held}
            | {name: probe.detail[name] for name in ("exchanges", "right", "asked")}
            for probe in sorted(found.probes, key=lambda probe: probe.tokens)
            if probe.target == QUALITY
        ],
    )


def _bytes_per_token(found: Estimate, params: ContextLimitProbeParams) -> Table:
    """Return the fitted lines beside the theory."""
    rows: list[dict[str, Any]] = []
    for dtype, (limits, line) in found.children.items():
        theory, failed = found.theory_bytes(dtype), limits.failed
        row: dict[str, Any] = {"dtype": dtype, "theory": theory, "held tokens": limits.low or None}
        row["ended by"] = None if failed is None else f"{_words(failed)} at {failed.tokens:,}"
        if line is not None:
            row |= {"bytes/token": round(line.slope), "low": round(line.low), "high": round(line.high)}
            row |= {
                "ratio": line.slope / theory if theory else None,
                "R²": line.r_squared,
                "points": line.points,
            }
        rows.append(row)
    words = [
        text for dtype in found.children if (text := ratio_in_words(found, dtype, params.fit_from_tokens))
    ]
    return Table(
        name="bytes_per_token",
        title="Memory per token, measured in a child process",
        columns=[
            "dtype", "bytes/token", "low", "high", "theory", "ratio", "R²", "points", "held tokens", "ended by",
        ],
        rows=rows,
        digits={"ratio": 4, "R²": 5},
        note=(
            f"{found.held_in_words} after each chunk, once activations are freed; theory: 2 · layers · kv_heads · "
            "head_dim · bytes, over the layers that grow. "
            f"low and high, at {params.confidence:.0%}: {slopes.METHOD}, over the points. " + " ".join(words)
        ),
    )  # fmt: skip


def _cards(found: Estimate, params: ContextLimitProbeParams) -> Table:
    """Return what fits into how much free memory, extrapolated."""
    lines = {dtype: line for dtype, (_, line) in found.children.items() if line is not None}
    free = "free GiB beside the model"
    rows = [
        {free: f"{gib:g}", **{f"tokens, {dtype}": line.tokens_in(gib * GIB) for dtype, line in lines.items()}}
        for gib in params.cards_free_gib
    ]
    return Table(
        name="cards",
        title="EXTRAPOLATED: context that fits into so much free memory",
        columns=[free, *(f"tokens, {dtype}" for dtype in lines)],
        rows=rows if lines else [],
        note=(
            "Free memory over bytes per token: an upper bound, from a line that was measured up to "
            f"{max((line.last_tokens for line in lines.values()), default=0):,} tokens only. It is the sum over all "
            "contexts that are held at once, and says nothing of the model's own limit. A dash: all windows are full, "
            "and nothing grows."
        ),
    )


_TRIMS = {
    "interval": "interval", "turns": "turns", "failed": "failed", "trims": "trims", "largest_tokens": "largest prompt",
    "turn_ttft_ms": "turn TTFT ms", "trim_ttft_ms": "trim TTFT ms", "low": "low", "high": "high",
    "trim_cached_tokens": "cached at a trim", "trim_computed_tokens": "computed at a trim",
    "states": "cache states of trims", "mean_ttft_ms": "mean TTFT ms", "mean_low": "mean low", "mean_high": "mean high",
}  # fmt: skip


def _trims(replays: pd.DataFrame, params: ContextLimitProbeParams) -> Table:
    """Return what each interval costs."""
    rows = []
    for row in replays.to_dict("records"):
        trim, mean = row["trim_ttft_ms"], row["mean_ttft_ms"]
        flat = row | {"trim_ttft_ms": trim.estimate, "low": trim.low, "high": trim.high}
        flat |= {"mean_ttft_ms": mean.estimate, "mean_low": mean.low, "mean_high": mean.high}
        rows.append({header: flat[name] for name, header in _TRIMS.items()})
    return Table(
        name="trims",
        title="The trimming check: what each interval costs",
        columns=list(_TRIMS.values()),
        rows=rows,
        digits=dict.fromkeys(_TRIMS.values(), 1),
        note=(
            "interval: exchanges from trim to trim, all with the same KEEP_MESSAGES. A trim moves what it keeps, so the "
            "cache knows only the system message before it. Mean TTFT: over whole cycles, each a trim and the turns up "
            "to the next, with an interval over cycles where there are seven or more. That is what an interval costs. "
            f"low and high, at {params.confidence:.0%}: of a trim's TTFT by {medians.METHOD}, over trims; of the mean by "
            f"{means.METHOD}, over cycles."
        ),
    )


def latencies(frame: pd.DataFrame) -> pd.DataFrame:
    """Return TTFT and decode speed against context, a request a row.

    Columns: kind (``growing``: as the conversation grew, ``warm``: a question whose context is in the
    cache, ``cold``: nothing is), prompt_tokens, cached_tokens, ttft_ms, tpot_ms, cache_state, trial_id.
    """
    good = frame[frame["used"] & (frame["status"] == "ok") & frame["prompt_tokens"].notna()]
    kinds = {"probe": "growing", "probe-fresh": "cold", "cold": "cold"}
    part = good[good["arm"].isin(list(kinds)) | good["arm"].astype(str).str.startswith("needle-")]
    columns = ["trial_id", "prompt_tokens", "cached_tokens", "ttft_ms", "tpot_ms", "cache_state"]
    found = part[columns].copy()
    found.insert(1, "kind", [kinds.get(str(arm), "warm") for arm in part["arm"]])
    return found.sort_values(["kind", "prompt_tokens", "trial_id"]).reset_index(drop=True)


def _latency(frame: pd.DataFrame) -> Table:
    columns, rows = ["context", "tokens", "cached", "TTFT ms", "tokens/s", "requests"], []
    for _, part in latencies(frame).groupby(["kind", "prompt_tokens"], sort=True):
        tpot = part["tpot_ms"].dropna().astype(float)
        speed = 1e3 / tpot.median() if len(tpot) and tpot.median() > 0 else None
        median = part[["cached_tokens", "ttft_ms"]].astype(float).median()
        values = part["kind"].iloc[0], part["prompt_tokens"].iloc[0], *median, speed, len(part)
        rows.append(dict(zip(columns, values, strict=True)))
    return Table(
        name="latency",
        title="TTFT and decode speed against context",
        evidence=True,
        columns=columns,
        rows=rows,
        digits=dict.fromkeys(columns, 1),
        note="Medians. tokens/s: of the tokens after the first.",
    )


def _memory(memory: Memory) -> Table:
    """Return baseline, peak and delta of each trial that took longer than a moment."""
    seen = memory.windows[memory.windows["samples"] > 3]
    rows = pd.DataFrame({"trial": seen["name"], "memory": seen["series"]})
    for name in ("baseline", "peak", "delta"):
        rows[f"{name} MiB"] = seen[f"{name}_bytes"] / MIB
    rows["samples"] = seen["samples"]
    cost = [
        f"{row['reads']} looks of {row['mean_ms']:.2f} ms on average, {row['busy_fraction']:.2%} of the time"
        for row in memory.monitors.dropna(subset=["mean_ms"]).to_dict("records")
    ]
    note = f"Looking cost: {'; '.join(cost)}." if cost else "Memory was not looked at."
    unseen = memory.why_not()
    return Table(
        name="memory",
        title="Memory by trial",
        evidence=True,
        rows=rows,
        digits=dict.fromkeys(rows.columns, 1),
        note=note if unseen == "nothing was sampled" else f"{note} Not seen: {unseen}.",
    )


def _words(probe: Probe) -> str:
    return "being tried" if probe.outcome is None else WORDS[probe.outcome]


# Why bytes per token are what they are ----------------------------------------------------------------


def ratio_in_words(found: Estimate, dtype: str, from_tokens: int) -> str | None:
    """Return what a precision's ratio to the theory comes from; ``None``: no line was measured."""
    line = found.children[dtype][1]
    if line is None:
        return None
    layout, theory = layout_of(found.probes, dtype), found.theory_bytes(dtype)
    if layout is None or theory is None:
        return f"{dtype}: {found.detail(dtype, 'layout') or 'unknown layout'}, so there is no theory to compare with."
    tensors = tensor_slope(found.probes, dtype, from_tokens)
    return f"{dtype}: {layout.describe()}. {_layers_in_words(layout)}{_difference_in_words(line, theory, tensors)}"


def _layers_in_words(layout: KvLayout) -> str:
    window = layout.window_tokens
    if window and layout.full_layers:
        times = layout.steps(window) / window
        return (
            f"A token takes {times:.1f} times the slope until the windows are full ({window:,} tokens), and the slope "
            "from there on: the line goes over what the layers hold at each length. "
        )
    if window:
        return (
            f"All layers have a window: beyond {window:,} tokens nothing grows, and the slope is that below. "
        )
    return "A state of fixed size is in no token's share. " if layout.stateless_layers else ""


def _difference_in_words(line: Line, theory: int, tensors: float | None) -> str:
    if tensors is None:
        beside = line.slope / theory - 1
        return (
            f"Measured is {beside:+.1%} beside the theory; the cache does not tell the size of its tensors."
        )
    own, rest = tensors / theory - 1, (line.slope - tensors) / theory
    first = "The cache's own tensors take what the theory says: no padding and no blocks"
    if abs(own) > _SAME:
        first = (
            f"The cache's own tensors take {own:+.1%} beside the theory: padding, blocks, or a layout that "
            "config.json does not tell"
        )
    if abs(rest) <= _SAME:
        return f"{first}; and nothing is taken beside them."
    if rest > 0:
        return f"{first}; {rest:.1%} is taken beside them: pages that the allocator gives to a tensor whole."
    return f"{first}; measured is {-rest:.1%} less: memory that was there already and is used again."
