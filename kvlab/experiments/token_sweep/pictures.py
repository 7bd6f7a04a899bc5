"""The pictures of a token sweep."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kvlab.findings import Picture
from kvlab.report import figures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from kvlab.experiments.token_sweep.params import TokenSweepParams

_ARMS = (("cold", figures.COLD, "cold"), ("hit", figures.HIT, "cache hit"))


def pictures(table: pd.DataFrame, params: "TokenSweepParams") -> list[Picture]:
    """Return the pictures of the pairs (`findings.pairs`)."""
    table = table.assign(axis_tokens=table["cold_prompt_tokens"].fillna(table["target_tokens"]).astype(float))
    valid, rest = int(table["valid"].sum()), int((~table["valid"]).sum())
    n = f"n = {valid} pairs with proven states" + (f"; crosses: {rest} pairs without" if rest else "") + "."
    found = [
        Picture(
            name="ttft_vs_tokens",
            title="TTFT against prompt length",
            caption=f"Each dot is one request; lines join the medians. {n}",
            empty=not len(table),
            draw=lambda: _against_tokens(table, "ttft_ms", "TTFT against prompt length", "TTFT (ms)"),
        ),
        Picture(
            name="latency_vs_tokens",
            title="Latency against prompt length",
            caption=f"From sent to the last byte, generated tokens included. {n}",
            empty=not len(table),
            draw=lambda: _against_tokens(
                table, "latency_ms", "Latency against prompt length", "latency (ms)"
            ),
        ),
        Picture(
            name="ttft_reduction_vs_tokens",
            title="TTFT saved by the cache",
            caption=f"Per pair: 1 - TTFT(hit) / TTFT(cold); the line joins the medians. {n}",
            empty=not len(table),
            draw=lambda: _reduction(table, params.ttft_min_reduction_fraction),
        ),
    ]
    if has_split(table):
        found.append(
            Picture(
                name="ttft_split",
                title="Where the first token's time goes",
                caption=f"Medians: the server's own queue and prefill times, and the rest (network, HTTP, tokenizer). {n}",
                empty=not valid,
                draw=lambda: _split(table[table["valid"]]),
            )
        )
    return found


def has_split(table: pd.DataFrame) -> bool:
    """Whether the server told its queue and prefill times."""
    return bool(table["cold_server_prefill_ms"].notna().any())


def _against_tokens(table: pd.DataFrame, column: str, title: str, label: str) -> "Figure":
    figure, axes = figures.new(title, "prompt length (tokens, as the server counts them)", label)
    valid, rest = table[table["valid"]], table[~table["valid"]]
    ends = []
    for arm, colour, name in _ARMS:
        y = f"{arm}_{column}"
        axes.plot(valid["axis_tokens"], valid[y].astype(float), "o", color=colour, alpha=0.45, markersize=5)
        axes.plot(rest["axis_tokens"], rest[y].astype(float), "x", color=colour)
        middle = valid.groupby("target_tokens")[["axis_tokens", y]].median().astype(float)
        axes.plot(middle["axis_tokens"], middle[y], "-", color=colour, linewidth=2)
        if len(middle):
            last = float(middle[y].iloc[-1])
            ends.append((float(middle["axis_tokens"].iloc[-1]), last, f"{name}: {_ms(last)}", colour))
    if len(table):
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
        figures.label_ends(axes, ends)
    else:
        figures.nothing(axes)
    return figure


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _reduction(table: pd.DataFrame, margin: float) -> "Figure":
    figure, axes = figures.new(
        "TTFT saved by the cache", "prompt length (tokens, as the server counts them)", "TTFT saved (%)"
    )
    valid, rest = table[table["valid"]], table[~table["valid"]]
    saved, unproven = (100 * part["ttft_reduction"].astype(float) for part in (valid, rest))
    axes.plot(valid["axis_tokens"], saved, "o", color=figures.HIT, alpha=0.45, markersize=5)
    axes.plot(rest["axis_tokens"], unproven, "x", color=figures.OTHER)
    middle = valid.groupby("target_tokens")[["axis_tokens", "ttft_reduction"]].median().astype(float)
    axes.plot(middle["axis_tokens"], 100 * middle["ttft_reduction"], "-", color=figures.HIT, linewidth=2)
    axes.set_ylim(min(0.0, *axes.get_ylim()), 102)
    if not len(table):
        figures.nothing(axes)
        return figure
    left, right = float(table["axis_tokens"].min()), float(table["axis_tokens"].max())
    axes.plot([left, right], [100 * margin] * 2, color=figures.MARGIN, linestyle="--", linewidth=1.2)
    ends = [(right, 100 * margin, f"margin: {margin:.0%}", figures.MARGIN)]
    if len(middle):
        last = 100 * float(middle["ttft_reduction"].iloc[-1])
        ends.append((right, last, f"median: {last:.0f}%", figures.HIT))
    figures.label_ends(axes, ends, right=0.22)
    return figure


def _split(valid: pd.DataFrame) -> "Figure":
    figure, axes = figures.new(
        "Where the first token's time goes", "prompt tokens (target)", "median time (ms)"
    )
    targets = sorted(valid["target_tokens"].unique())
    places = np.arange(len(targets))
    parts = (("queue", figures.OTHER), ("prefill", figures.COLD), ("rest", figures.MARGIN))
    for offset, (arm, _, name) in zip((-0.2, 0.2), _ARMS, strict=True):
        bottom = np.zeros(len(targets))
        for part, colour in parts:
            height = np.array(
                [_part(valid[valid["target_tokens"] == target], arm, part) for target in targets]
            )
            label: Any = part if arm == "cold" else None
            axes.bar(places + offset, height, 0.36, bottom=bottom, color=colour, label=label)
            bottom += height
        for x, y in zip(places, bottom, strict=True):
            axes.annotate(
                name, (x + offset, y), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8
            )
    axes.set_xticks(places, [f"{target:,}" for target in targets])
    figures.legend_below(figure, axes)
    return figure


def _part(group: pd.DataFrame, arm: str, part: str) -> float:
    queue, prefill = group[f"{arm}_server_queue_ms"], group[f"{arm}_server_prefill_ms"]
    values = {"queue": queue, "prefill": prefill, "rest": group[f"{arm}_ttft_ms"] - queue - prefill}
    return float(values[part].astype(float).median())
