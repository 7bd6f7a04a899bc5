"""The pictures of prefix hit against miss."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab import figures
from kvlab.experiments.prefix_hit_miss import analysis, plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams

_TITLES = {plan.AS_WRITTEN: "as written", plan.VERIFIED: "verified"}
_MARKERS = {plan.HIT: ("o", "hit [A, B, Q]"), plan.MISS: ("v", "miss [B, Q]"),
            plan.SAME_LENGTH: ("s", "miss [A', B, Q]")}  # fmt: skip
#: From computed (dark) to read from the cache (yellow); also distinct in grey.
_COLOURS = "plasma"


def draw(table: pd.DataFrame, params: "PrefixHitMissParams") -> "dict[str, Figure]":
    """Return the figures by name, from the trials (`analysis.trials`)."""
    return {"ttft_by_trial": _by_trial(table, params), "degradation": _degradation(table, params)}


def _by_trial(table: pd.DataFrame, params: "PrefixHitMissParams") -> "Figure":
    """One row of panels an (A, B), one column a procedure; every trial in the order it was made."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import MaxNLocator

    procedures = sorted(params.procedures)
    figure, axes = figures.panels(len(params.configs), len(procedures))
    places = iter(axes)
    for size_a, size_b in params.configs:
        row = [next(places) for _ in procedures]
        for place, procedure in zip(row, procedures, strict=True):
            found = analysis.of(table, (size_a, size_b), procedure)
            _points(place, found[found["complete"]])
            place.set(title=f"{_TITLES[procedure]}: A {size_a:,}, B {size_b:,}", ylabel="TTFT (ms)")
            place.set_xlabel("trial of its condition")
            place.xaxis.set_major_locator(MaxNLocator(integer=True))
        top = max(place.get_ylim()[1] for place in row)
        for place in row:
            place.set_ylim(0, 1.12 * top)
    figure.colorbar(
        ScalarMappable(cmap=_COLOURS), ax=axes, label="share of the prompt read from the cache", pad=0.01
    )
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _points(axes: "Axes", found: pd.DataFrame) -> None:
    from matplotlib import colormaps

    for condition, (marker, _) in _MARKERS.items():
        group = found[found["condition"] == condition]
        axes.plot(
            group["index"], group["ttft_ms"].astype(float), "-", color=figures.OTHER, alpha=0.4, linewidth=1
        )
        for row in group.to_dict("records"):
            share = row["cached_fraction"]
            colour: Any = figures.OTHER if pd.isna(share) else colormaps[_COLOURS](float(share))
            axes.plot(
                row["index"],
                float(row["ttft_ms"]),
                marker,
                markersize=8,
                markerfacecolor="none" if row["discarded"] else colour,
                markeredgecolor=colour,
                markeredgewidth=2 if row["discarded"] else 0.5,
            )


def _legend() -> list[Any]:
    from matplotlib.lines import Line2D

    grey: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "#444444", "markersize": 8}
    handles = [
        Line2D([], [], marker=marker, markerfacecolor="#444444", label=label, **grey)
        for marker, label in _MARKERS.values()
    ]
    return [*handles, Line2D([], [], marker="o", markerfacecolor="none", label="open: discarded", **grey)]


def _degradation(table: pd.DataFrame, params: "PrefixHitMissParams") -> "Figure":
    figure, axes = figures.new(
        "How much longer a miss takes than a hit", "context sizes", "ttft_degradation_pct (%)"
    )
    series = [
        (procedure, other, colour, label)
        for procedure, other, colour, label in (
            (plan.AS_WRITTEN, plan.MISS, figures.OTHER, "as written, [B, Q]"),
            (plan.VERIFIED, plan.MISS, figures.COLD, "verified, [B, Q]"),
            (plan.VERIFIED, plan.SAME_LENGTH, figures.MARGIN, "verified, same length [A', B, Q]"),
        )
        if procedure in params.procedures
    ]
    for offset, (procedure, other, colour, label) in zip((-0.22, 0, 0.22), series, strict=False):
        for index, config in enumerate(params.configs):
            found = analysis.degradation(table, config, procedure, params, other)
            if found.estimate is None:
                continue
            low, high = found.low or found.estimate, found.high or found.estimate
            axes.errorbar(
                index + offset,
                found.estimate,
                yerr=[[max(0.0, found.estimate - low)], [max(0.0, high - found.estimate)]],
                fmt="o",
                capsize=4,
                color=colour,
                label=label if index == 0 else None,
            )
            axes.annotate(
                f"{found.estimate:+,.0f}%", (index + offset, found.estimate), xytext=(8, 0),
                textcoords="offset points", color=colour, fontsize=9, va="center",
            )  # fmt: skip
    axes.axhline(0, color="#444444", linewidth=1)
    axes.set_xticks(range(len(params.configs)), [f"A {a:,}\nB {b:,}" for a, b in params.configs])
    axes.set_xlim(-0.6, len(params.configs) - 0.4)
    if series:
        axes.legend(loc="best")
    return figure
