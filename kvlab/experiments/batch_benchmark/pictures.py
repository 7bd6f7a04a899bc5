"""The pictures of a batch benchmark."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kvlab.experiments.batch_benchmark import estimate
from kvlab.experiments.batch_benchmark.data import Load
from kvlab.findings import Picture
from kvlab.report import figures
from kvlab.vram import pictures as memory

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]
COLOURS = {
    "shared_prefix": figures.HIT,
    "isolated": figures.COLD,
    "conversation": figures.MARGIN,
    "concurrent_start": figures.PURPLE,
    "batch_api": figures.OTHER,
}
_POINTS = 2_000  # of a curve: more would be drawn on top of one another


def pictures(
    load: Load,
    table: Sequence[Cell],
    forecasts: Sequence[Mapping[str, Any]],
    params: "BatchBenchmarkParams",
) -> list[Picture]:
    """Return the pictures of the report."""
    largest = [cells[-1] for name in params.strategies if (cells := estimate.trials_of(table, name))]
    answered = sum(cell["answered"] for cell in largest)
    steady = [cell for cell in largest if len(cell["steady"].windows)]
    windows = sum(len(cell["steady"].windows) for cell in steady)
    timed = [cell for cell in table if cell["total_s"]]
    n = f"n = {answered:,} answered requests."
    found = [
        Picture(
            name="strategies",
            title="The strategies at the largest size",
            caption="Left: requests per second. Right: prompt tokens that the server did not compute, as measured, and as "
            f"the structure of the prompts lets one expect (box: from at least to at most). {n}",
            empty=not answered,
            draw=lambda: _strategies(largest),
        ),
        Picture(
            name="rate_over_time",
            title="Steady state",
            caption="The time per request in windows of the largest trials; what is shaded is start-up and drain, and is cut off. "
            f"n = {windows} windows in {len(steady)} trials.",
            empty=not steady,
            draw=lambda: _windows(largest),
        ),
        Picture(
            name="ttft",
            title="TTFT of all answered requests at the largest size",
            caption=f"The share of requests whose first token came within the time; to the right, each strategy's median. {n}",
            empty=not answered,
            draw=lambda: _ttft(load.requests, largest),
        ),
        Picture(
            name="extrapolation",
            title="From the trials to the target",
            caption="Filled: trials. Open: the largest size as the smaller ones predict it. Bars: prediction intervals. "
            f"A strategy whose extrapolation is refused has no point at the target. n = {len(timed)} trials.",
            empty=not timed,
            draw=lambda: _extrapolation(table, forecasts, params),
        ),
    ]
    if len(load.memory):
        found.append(
            Picture(
                name="memory",
                title="The server's memory",
                caption="Shaded: trials. The table of checks says whether it rises within one.",
                draw=lambda: memory.memory_over_time(load.memory, load.windows, "The server's memory"),
            )
        )
    return found


def _strategies(largest: Sequence[Cell]) -> "Figure":
    figure, (rates, saved) = figures.panels(1, 2, "The strategies at the largest size", width=4.4, height=3.6)
    names = [cell["strategy"].replace("_", "\n") for cell in largest]
    places = np.arange(len(largest))
    colours = [COLOURS[cell["strategy"]] for cell in largest]
    heights = [cell["requests_per_s"] or 0 for cell in largest]
    bars = rates.bar(places, heights, 0.6, color=colours)
    rates.bar_label(bars, [f"{height:,.1f}" for height in heights], fontsize=8, padding=2)
    rates.set(title="requests per second", xticks=places, xticklabels=names)
    for place, cell in zip(places, largest, strict=True):
        if cell["savings"] is None:
            saved.annotate("not\nprovable", (place, 1), ha="center", fontsize=8)
        else:
            saved.bar(place, 100 * cell["savings"], 0.6, color=COLOURS[cell["strategy"]])
            top = max(cell["savings"], cell["predicted_savings_at_most"] or 0.0)
            text = f"{100 * cell['savings']:.1f}"
            saved.annotate(
                text, (place, 100 * top), xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8
            )
        if cell["predicted_savings"] is not None:
            low, high = 100 * cell["predicted_savings"], 100 * cell["predicted_savings_at_most"]
            saved.bar(place, high - low, 0.74, bottom=low, fill=False, edgecolor="black", linewidth=1)
    saved.set(
        title="prompt tokens saved, % (box: predicted)", xticks=places, xticklabels=names, ylim=(0, 110)
    )
    for axes in (rates, saved):
        axes.tick_params(axis="x", labelsize=8)
        axes.grid(visible=False, axis="x")
        axes.title.set_fontsize(10)
    return figure


def _windows(largest: Sequence[Cell]) -> "Figure":
    shown = [cell for cell in largest if len(cell["steady"].windows)]
    figure, axes_list = figures.panels(
        1,
        max(1, len(shown)),
        "Time per request over a trial: the steady state",
        width=max(3.0, 9.0 / max(1, len(shown))),
        height=3.4,
    )
    for axes, cell in zip(axes_list, shown, strict=False):
        found, colour = cell["steady"], COLOURS[cell["strategy"]]
        windows = found.windows
        edges = [*windows["start_s"], windows["end_s"].iloc[-1]]
        axes.stairs(windows["s_per_request"] * 1e3, edges, color=colour, linewidth=1.8, baseline=None)
        axes.axhline(1e3 * windows["s_per_request"].mean(), color=colour, linestyle=":", linewidth=1)
        for start, end in ((0, found.start_s), (found.end_s, found.total_s)):
            axes.axvspan(start, end, color=figures.OTHER, alpha=0.18, linewidth=0)
        axes.set(title=f"{cell['strategy']}, {cell['size']:,}", xlabel="time (s)", xlim=(0, found.total_s))
        axes.set_ylim(0, 1.35e3 * windows["s_per_request"].max())
        axes.title.set_fontsize(10)
    if shown:
        axes_list[0].set_ylabel("time per request (ms)")
    else:
        figures.nothing(axes_list[0], "no trial has a steady state")
    return figure


def _ttft(frame: pd.DataFrame, largest: Sequence[Cell]) -> "Figure":
    figure, axes = figures.new("TTFT at the largest size", "TTFT (ms)", "share of requests")
    ends = list[tuple[float, float, str, str]]()
    for cell in largest:
        rows = frame[(frame["trial_id"] == cell["trial_id"]) & frame["used"]]
        values = np.sort(rows["ttft_ms"].dropna().to_numpy(dtype=float))
        if not len(values):
            continue
        shares = np.arange(1, len(values) + 1) / len(values)
        kept = np.unique(np.linspace(0, len(values) - 1, min(len(values), _POINTS)).astype(int))
        colour = COLOURS[cell["strategy"]]
        axes.step(values[kept], shares[kept], where="post", color=colour, linewidth=1.8)
        name = f"{cell['strategy'].replace('_', ' ')}: {np.median(values):,.0f} ms"
        ends.append((float(values[-1]), 1.0, name, colour))
    axes.set_ylim(0, 1.02)
    if ends:
        axes.set_xscale("log")
        figures.plain_log(axes.xaxis)
        right = max(end[0] for end in ends)
        figures.label_ends(axes, [(right, 0.5, *end[2:]) for end in sorted(ends, reverse=True)], right=0.42)
    else:
        figures.nothing(axes)
    return figure


def _extrapolation(
    table: Sequence[Cell], forecasts: Sequence[Mapping[str, Any]], params: "BatchBenchmarkParams"
) -> "Figure":
    figure, axes = figures.new("From the trials to the target", "requests", "time (s)")
    ends = list[tuple[float, float, str, str]]()
    for place, found in enumerate(forecasts):
        colour, shift = COLOURS[found["strategy"]], 1 + 0.06 * (place - 2)  # side by side, not on top
        cells = [cell for cell in estimate.trials_of(table, found["strategy"]) if cell["total_s"]]
        if not cells:
            continue
        axes.plot(
            [c["size"] for c in cells],
            [c["total_s"] for c in cells],
            "o-",
            color=colour,
            markersize=5,
        )
        end = float(cells[-1]["size"]), float(cells[-1]["total_s"])
        if held := found["held_out"]:
            _point(
                axes,
                held["requests"] * shift,
                held["predicted_s"],
                held["low_s"],
                held["high_s"],
                colour,
                hollow=True,
            )
        if not found["refused"]:
            x, y = params.target_requests * shift, found["seconds"]
            axes.plot([cells[-1]["size"], x], [cells[-1]["total_s"], y], ":", color=colour, linewidth=1)
            _point(axes, x, y, found["low_s"], found["high_s"], colour, hollow=False)
            end = float(params.target_requests), float(y)
        ends.append((*end, found["strategy"].replace("_", " "), colour))
    axes.set(xscale="log", yscale="log")
    if times := [cell["total_s"] for cell in table if cell["total_s"]]:
        axes.set_ylim(bottom=min(times) / 3)  # an interval from 0 has no end on this axis
    axes.axvline(params.target_requests, color=figures.OTHER, linestyle="--", linewidth=1)
    axes.annotate(f"target {params.target_requests:,}", (params.target_requests, 1), xycoords=("data", "axes fraction"),
                  xytext=(-6, -12), textcoords="offset points", ha="right", fontsize=9)  # fmt: skip
    if ends:
        for axis in (axes.xaxis, axes.yaxis):
            figures.plain_log(axis)
        figures.label_ends(axes, ends, right=0.32)
    else:
        figures.nothing(axes)
    return figure


def _point(
    axes: "Axes", x: float, y: float, low: float | None, high: float | None, colour: str, *, hollow: bool
) -> None:
    """Draw a prediction with its interval, if it has one."""
    errors = None if low is None or high is None else [[y - max(low, y * 1e-3)], [high - y]]
    face = "white" if hollow else colour
    axes.errorbar(
        [x],
        [y],
        yerr=errors,
        fmt="s",
        color=colour,
        markerfacecolor=face,
        markersize=6,
        capsize=3,
        linewidth=1.2,
    )
