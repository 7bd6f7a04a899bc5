"""The pictures of prefix hit against miss."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.experiments.prefix_hit_miss import estimate, trials
from kvlab.findings import Picture
from kvlab.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams

_TITLES = {trials.AS_WRITTEN: "as written", trials.VERIFIED: "verified"}
_MARKERS = {trials.HIT: ("o", "hit [A, B, Q]"), trials.MISS: ("v", "miss [B, Q]"),
            trials.SAME_LENGTH: ("s", "miss [A', B, Q]")}  # fmt: skip
#: From computed (dark) to read from the cache (yellow); also distinct in grey.
_COLOURS = "plasma"


def pictures(table: pd.DataFrame, params: "PrefixHitMissParams") -> list[Picture]:
    """Return the pictures of the trials (`estimate.table_of`)."""
    used = int(table["complete"].sum()) if len(table) else 0
    pairs = min(
        (len(estimate.pairs(table, config, trials.SAME_LENGTH)) for config in params.configs), default=0
    )
    return [
        Picture(
            name="ttft_by_trial",
            title="Each trial's TTFT, coloured by what the cache served",
            caption=(
                "Yellow: the prompt was read from the cache; dark: it was computed. Open markers are discarded "
                f"trials. A miss ought to be dark. n = {used} trials."
            ),
            empty=not used,
            draw=lambda: _by_trial(table, params),
        ),
        Picture(
            name="degradation",
            title="How much longer a miss takes",
            caption=(
                "ttft_degradation_pct with its interval, where there is one. Above 0: a miss takes longer than a hit. As "
                "written, a miss may be a hit (the table says how many are); verified, none is; same length: only the "
                f"cache differs. n = {pairs} pairs or more at each size."
            ),
            empty=not used,
            draw=lambda: _degradation(table, params),
        ),
    ]


def _by_trial(table: pd.DataFrame, params: "PrefixHitMissParams") -> "Figure":
    """One row of panels per (A, B), one column per procedure; every trial in the order it was made."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.ticker import MaxNLocator

    procedures = sorted(params.procedures)
    title = "TTFT of every trial, coloured by what the cache served"
    figure, axes = figures.panels(len(params.configs), len(procedures), title)
    places = iter(axes)
    for size_a, size_b in params.configs:
        row = [next(places) for _ in procedures]
        for place, procedure in zip(row, procedures, strict=True):
            found = estimate.of(table, (size_a, size_b), procedure)
            _points(place, found[found["complete"]])
            place.set(title=f"{_TITLES[procedure]}: A {size_a:,}, B {size_b:,}", ylabel="TTFT (ms)")
            place.set_xlabel("trial of its condition")
            place.xaxis.set_major_locator(MaxNLocator(integer=True))
        here = (table["size_a"] == size_a) & (table["size_b"] == size_b)
        _scale(row, table[here]["ttft_ms"].dropna().astype(float))
    figure.colorbar(
        ScalarMappable(cmap=_COLOURS), ax=axes, label="share of the prompt read from the cache", pad=0.01
    )
    figure.legend(handles=_legend(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def _scale(row: "list[Axes]", times: "pd.Series[float]") -> None:
    """Give panels that are compared one logarithmic axis: a hit and a miss differ by a factor."""
    for axes in row if len(times) else ():
        axes.set_yscale("log")
        axes.set_ylim(times.min() / 1.5, times.max() * 1.5)
        figures.plain_log(axes.yaxis)


def _points(axes: "Axes", found: pd.DataFrame) -> None:
    from matplotlib import colormaps

    for shift, (condition, (marker, _)) in zip((-0.12, 0.0, 0.12), _MARKERS.items(), strict=True):
        group = found[found["condition"] == condition]
        group = group.assign(place=group["index"] + shift)
        axes.plot(
            group["place"], group["ttft_ms"].astype(float), "-", color=figures.OTHER, alpha=0.4, linewidth=1
        )
        for row in group.to_dict("records"):
            share = row["cached_fraction"]
            colour: Any = figures.OTHER if pd.isna(share) else colormaps[_COLOURS](float(share))
            axes.plot(
                row["place"],
                float(row["ttft_ms"]),
                marker,
                markersize=8,
                markerfacecolor="none" if row["discarded"] else colour,
                markeredgecolor=colour if row["discarded"] else "#444444",
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
        "How much longer a miss takes than a hit",
        "context sizes (tokens)",
        "how much longer a miss takes (%)",
    )
    series = [
        (procedure, other, colour, label)
        for procedure, other, colour, label in (
            (trials.AS_WRITTEN, trials.MISS, figures.OTHER, "as written, [B, Q]"),
            (trials.VERIFIED, trials.MISS, figures.COLD, "verified, [B, Q]"),
            (trials.VERIFIED, trials.SAME_LENGTH, figures.MARGIN, "verified, same length [A', B, Q]"),
        )
        if procedure in params.procedures
    ]
    named: set[str] = set()
    for offset, (procedure, other, colour, label) in zip((-0.22, 0, 0.22), series, strict=False):
        for index, config in enumerate(params.configs):
            found = estimate.degradation(table, config, procedure, params, other)
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
                label=None if label in named else label,
            )
            named.add(label)
            axes.annotate(
                f"{found.estimate:+,.0f}%", (index + offset, found.estimate), xytext=(8, 7),
                textcoords="offset points", color=colour, fontsize=9, va="center",
            )  # fmt: skip
    axes.axhline(0, color="#444444", linewidth=1)
    axes.set_xticks(range(len(params.configs)), [f"A {a:,}\nB {b:,}" for a, b in params.configs])
    axes.set_xlim(-0.6, len(params.configs) - 0.4)
    figures.legend_below(figure, axes, columns=1)
    return figure
