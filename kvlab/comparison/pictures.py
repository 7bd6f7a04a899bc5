"""The figure of a comparison: each pair as a point, or the two distributions where nothing is paired."""

from typing import TYPE_CHECKING

import numpy as np

from kvlab.comparison.comparison import Comparison
from kvlab.comparison.values import RATE, split

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def unit(metric: str) -> str:
    """Return the unit of a metric."""
    return "s per request" if split(metric)[1] == RATE else "ms"


def draw(found: Comparison) -> "Figure":
    """Return the paired scatter, or the empirical distributions, with the margin as a band."""
    return _scatter(found) if len(found.pairs) else _distributions(found)


def caption(found: Comparison) -> str:
    """Return what there is to see."""
    margin = f"{found.named.margin:.0%}"
    if len(found.pairs):
        return (
            f"Each point is one trial that both sides have measured. On the line both took as long; below it "
            f"{found.second.title} was faster. In the band they differ by less than {margin}."
        )
    return (
        "For each time, the share of trials that took no longer. No trial is on both sides, so these are two samples: "
        f"the further left a curve, the faster its side. The band is {margin} around the first side."
    )


def _scatter(found: Comparison) -> "Figure":
    from kvlab.report import figures

    metric = found.named.metric
    x, y = (np.exp(found.pairs[f"log_{side}"].to_numpy(dtype=float)) for side in ("first", "second"))
    figure, axes = figures.new(
        f"{metric}, trial by trial",
        f"{found.first.title} ({unit(metric)})",
        f"{found.second.title} ({unit(metric)})",
    )
    low, high = 0.9 * min(x.min(), y.min()), 1.1 * max(x.max(), y.max())
    line = np.array([low, high])
    wide = 1 + found.named.margin
    axes.fill_between(
        line, line / wide, line * wide, color=figures.MARGIN, alpha=0.18, linewidth=0, label="margin"
    )
    axes.plot(line, line, color=figures.OTHER, linewidth=1, label="as long")
    axes.scatter(x, y, s=26, color=figures.COLD, alpha=0.8, label=f"{len(x)} pairs")
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
    _plain(axes)
    axes.legend(loc="upper left")
    return figure


def _distributions(found: Comparison) -> "Figure":
    from kvlab.report import figures

    metric = found.named.metric
    figure, axes = figures.new(f"{metric}, all trials", f"{metric} ({unit(metric)})", "share of trials")
    for part, side, colour in zip(
        found.values, (found.first, found.second), (figures.COLD, figures.HIT), strict=True
    ):
        times = np.sort(np.exp(part["log"].to_numpy(dtype=float)))
        shares = np.arange(1, len(times) + 1) / len(times)
        axes.step(times, shares, where="post", color=colour, label=f"{side.title} (n = {len(times)})")
        if side is found.first:
            wide = 1 + found.named.margin
            axes.fill_betweenx(shares, times / wide, times * wide, step="pre", color=figures.MARGIN, alpha=0.18,
                               linewidth=0, label="margin")  # fmt: skip
    axes.set(xscale="log", ylim=(0, 1.02))
    _plain(axes)
    axes.legend(loc="lower right")
    return figure


def _plain(axes: object) -> None:
    """Write 200 and not 2 × 10²: people read milliseconds."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    for axis in (axes.xaxis, axes.yaxis) if axes.get_yscale() == "log" else (axes.xaxis,):  # type: ignore[attr-defined]
        axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
