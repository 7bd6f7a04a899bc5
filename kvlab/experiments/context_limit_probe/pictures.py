"""The figures of the report."""

from typing import TYPE_CHECKING

import pandas as pd

from kvlab.experiments.context_limit_probe.estimate import Estimate, held_bytes, longest_child, value
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, QUALITY
from kvlab.experiments.context_limit_probe.memory import MIB, Memory
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.replay import TRIM, interval_of
from kvlab.experiments.context_limit_probe.tables import latencies
from kvlab.findings import Picture
from kvlab.report import figures
from kvlab.vram.pictures import memory_over_time

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"float32": figures.COLD, "bfloat16": figures.HIT, "float16": figures.MARGIN}
_KINDS = {"cold": figures.COLD, "growing": figures.OTHER, "warm": figures.HIT}


def pictures(
    frame: pd.DataFrame, found: Estimate, memory: Memory, params: ContextLimitProbeParams
) -> list[Picture]:
    """Return all pictures; those that nothing was measured for are marked as empty."""
    tried = sum(probe.outcome is not None for probe in found.probes)
    timed, turns = len(latencies(frame)), _turns(frame)
    points = {dtype: len(longest_child(found.probes, dtype)) for dtype in found.children}
    fitted = [dtype for dtype, (_, line) in found.children.items() if line is not None and points[dtype]]
    return [
        Picture(
            name="limits",
            title="Every size that was tried, and the limits",
            caption=f"A dot: it worked; a cross: it did not. The shaded range is what MAX_CONTEXT_TOKENS allows. n = {tried} sizes.",
            empty=not tried,
            draw=lambda: _limits(found, params),
        ),
        Picture(
            name="memory_per_token",
            title="Memory against context, in the child process",
            caption="What the child holds above the loaded model; dashed: the theory, from config.json; cross: where the cap ended "
            f"it. n = {', '.join(f'{points[dtype]} lengths in {dtype}' for dtype in fitted) or '0'}.",
            empty=not fitted,
            draw=lambda: _per_token(found),
        ),
        Picture(
            name="latency",
            title="TTFT and decode speed against context",
            caption="Growing: part of the context was in the cache; warm: all but the question; cold: nothing. "
            f"n = {timed} requests.",
            empty=not timed,
            draw=lambda: _latency(frame),
        ),
        Picture(
            name="replay",
            title="The replayed conversation, turn by turn",
            caption=f"Each peak is a trim: what follows the system message is computed anew. n = {turns} turns.",
            empty=not turns,
            draw=lambda: _replay(frame, found, params),
        ),
        Picture(
            name="memory_over_time",
            title="Memory over time",
            caption="Shaded: trials. A server that allocated its cache when it started hardly moves, whatever is asked of it. "
            f"n = {len(memory.samples):,} samples.",
            empty=not len(memory.samples),
            draw=lambda: memory_over_time(memory.samples, memory.windows),
        ),
    ]


def _turns(frame: pd.DataFrame) -> int:
    return (
        int((frame["used"] & frame["trial_id"].astype(str).str.startswith("replay-")).sum())
        if len(frame)
        else 0
    )


def _limits(found: Estimate, params: ContextLimitProbeParams) -> "Figure":
    figure, axes = figures.new("Every size that was tried", "context (tokens)", "")
    names = {ENDPOINT: "accepted by\nthe endpoint", QUALITY: "start still\nanswered"}
    names |= {dtype: f"fits in memory\n({dtype})" for dtype in params.dtypes}
    rows = [name for name in names if any(probe.target == name for probe in found.probes)]
    for place, target in enumerate(rows):
        tried = [probe for probe in found.probes if probe.target == target and probe.outcome is not None]
        for held, marker, colour in ((True, "o", figures.COLD), (False, "x", figures.HIT)):
            part = [probe.tokens for probe in tried if probe.held is held]
            axes.plot(
                part, [place] * len(part), marker, color=colour, markersize=7 if held else 9, alpha=0.75
            )
    axes.set_yticks(range(len(rows)), [names[name] for name in rows])
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.set_xlim(left=0)
    if found.constants:
        largest = value(found.constants, "MAX_CONTEXT_TOKENS")
        axes.axvspan(0, largest, color=figures.MARGIN, alpha=0.12, linewidth=0)
        axes.axvline(largest, color=figures.MARGIN, linestyle="--", linewidth=1)
        axes.annotate(f"MAX_CONTEXT_TOKENS = {largest:,}", (largest, len(rows) - 0.5), xytext=(6, 6),
                      textcoords="offset points", color=figures.MARGIN, va="bottom")  # fmt: skip
    if not rows:
        figures.nothing(axes)
    return figure


def _per_token(found: Estimate) -> "Figure":
    figure, axes = figures.new(
        "Memory against context, in a child process", "context (tokens)", "growth (MiB)"
    )
    ends = []
    for dtype, (limits, line) in found.children.items():
        held = longest_child(found.probes, dtype)
        if line is None or not held:
            continue
        colour = _COLOURS[dtype]
        x = [probe.tokens for probe in held]
        y = [(held_bytes(probe) - line.intercept) / MIB for probe in held]
        axes.plot(x, y, "o", color=colour, markersize=4)
        words = f"{dtype}:\n{line.slope:,.0f} bytes\nper token"
        last = x[-1] if limits.failed is None else limits.failed.tokens
        ends.append((float(last), float(y[-1]), words, colour))
        theory = found.theory_bytes(dtype)
        if theory:
            lengths = [0, *x]
            wanted = [theory * (n if line.layout is None else line.layout.steps(n)) / MIB for n in lengths]
            axes.plot(lengths, wanted, "--", color=colour, linewidth=1)
        if limits.failed is not None:
            axes.plot(
                limits.failed.tokens,
                (line.bytes_at(limits.failed.tokens) - line.intercept) / MIB,
                "x",
                color=colour,
                markersize=10,
            )
    if ends:
        figures.label_ends(axes, ends, right=0.28, lines=3)
    else:
        figures.nothing(axes)
    return figure


def _latency(frame: pd.DataFrame) -> "Figure":
    figure, (left, right) = figures.panels(
        1, 2, "TTFT and decode speed against context", width=4.4, height=3.8
    )
    table = latencies(frame)
    for kind, part in table.groupby("kind", sort=True):
        x, colour = part["prompt_tokens"].astype(float), _KINDS[str(kind)]
        left.plot(
            x, part["ttft_ms"].astype(float), "o", color=colour, markersize=5, label=str(kind), alpha=0.8
        )
        speed = 1e3 / part["tpot_ms"].astype("Float64").where(part["tpot_ms"] > 0)
        known = speed.notna()
        right.plot(x[known], speed[known].astype(float), "o", color=colour, markersize=5, alpha=0.8)
    left.set(xlabel="context (tokens)", ylabel="TTFT (ms)")
    right.set(xlabel="context (tokens)", ylabel="decode speed (tokens/s)")
    right.set_ylim(bottom=0)
    if len(table):
        left.set_yscale("log")
        figures.plain_log(left.yaxis)
        figures.legend_below(figure, left)
    else:
        figures.nothing(left)
    return figure


def _replay(frame: pd.DataFrame, found: Estimate, params: ContextLimitProbeParams) -> "Figure":
    factors = sorted(params.interval_factors) if found.constants and params.replay_exchanges else []
    title = "The replayed conversation, turn by turn"
    figure, axes = figures.panels(max(1, len(factors)), 1, title, width=7.2, height=2.1)
    if not factors:
        figures.nothing(axes[0])
    top = 0.0
    for panel, factor in zip(axes, factors, strict=False):
        part = frame[frame["used"] & (frame["trial_id"] == f"replay-{factor:.3f}")].sort_values("sent_ns")
        turns = part["arm"].astype(str).str.rpartition("-")[2].astype(int) if len(part) else part["arm"]
        ttft = part["ttft_ms"].astype(float)
        is_trim = part["arm"].astype(str).str.startswith(TRIM)
        panel.plot(turns, ttft, color=figures.OTHER, linewidth=1)
        panel.plot(turns[is_trim], ttft[is_trim], "o", color=figures.COLD, markersize=5)
        interval = interval_of(found.constants, factor)
        panel.set_title(f"trimmed every {interval} exchanges", loc="left", fontsize=10)
        panel.set_ylabel("TTFT (ms)")
        top = max(top, float(ttft.max()) if len(ttft) else 0.0)
    for panel in axes:
        if top:
            panel.set_ylim(0, 1.08 * top)
    axes[-1].set_xlabel("turn (dots: the first after a trim)")
    return figure
