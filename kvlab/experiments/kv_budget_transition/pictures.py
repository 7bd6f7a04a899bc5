"""The pictures of the KV-budget transition."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from kvlab.compression.transition.bins import column, curve, timings
from kvlab.compression.transition.flips import right
from kvlab.compression.transition.scores import CURVE, FULL
from kvlab.experiments.kv_budget_transition.estimate import Analysis
from kvlab.findings import Picture
from kvlab.report import figures
from kvlab.stats.scores import mean_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKS = "osv^Dp*XhP<>"


def pictures(found: Analysis) -> list[Picture]:
    """Return the pictures that there are data for: none of a run without an answer, no latency where none was measured."""
    if not len(found.scores.examples):
        return []
    metric, examples = found.asked.metric, len(found.scores.examples)
    n = f"n = {examples} examples in {len(set(found.scores.clusters.tolist()))} contexts."
    every = [
        Picture(
            "accuracy_over_budget",
            "Accuracy over the budget",
            "Filled: planned; open: added where the curve falls. Bars: interval over contexts. Shaded: the interval "
            f"of the middle of the fall. The dashed line is budget 1.0 less the margin. {n}",
            lambda: _over_budget(found),
        ),
        Picture(
            "acc_by_bin",
            "Accuracy by length bin",
            f"One curve a budget, named at its end; bars are intervals over contexts. {n}",
            lambda: _named(
                *_by_bin(found, "acc_mean", f"accuracy (mean {metric})", "Accuracy by length bin")
            ),
        ),
        Picture(
            "flips",
            "Each example at each budget",
            "One row per example, sorted by bin and by where it breaks; one column per budget. Right is a score of at least "
            f"0.5. {n}",
            lambda: _flips(found),
        ),
        Picture(
            "fail_by_bin",
            "Failure rate by length bin",
            "Share of the answers that are missing or carry a failure label. One that was cut off, or is of another form, "
            f"carries one and is still an answer: the table below tells them apart. {n}",
            lambda: _named(*_by_bin(found, "fail_rate", "failure rate", "Failure rate by length bin")),
        ),
    ]
    if timed := int(pd.notna(column(timings(found.frame)[0], "latency_ms")).sum()):
        every.append(
            Picture(
                "latency_p50_by_bin",
                "Latency by length bin",
                "A point is one measurement. A line joins the medians (p50) of the bins that have at least 5 at that "
                f"budget. n = {timed} measurements.",
                lambda: _latency(found),
            )
        )
    return every


def _curve_stats(found: Analysis) -> pd.DataFrame:
    return found.stats[found.stats["phase"].isin(CURVE)]


def _over_budget(found: Analysis) -> "Figure":
    scores, asked = found.scores, found.asked
    figure, axes = figures.new("Accuracy over the KV budget", _axis(found), f"accuracy (mean {asked.metric})")
    means = {budget: mean for budget, mean in curve(scores).items() if mean == mean}
    axes.plot(list(means), list(means.values()), "-", color=figures.COLD, linewidth=1.2, zorder=2)
    for planned, label, face in ((True, "planned", figures.COLD), (False, "added by bisection", "white")):
        chosen = [
            k for k, budget in enumerate(scores.budgets) if scores.planned[k] == planned and budget in means
        ]
        bands = [
            mean_interval(
                scores.filled()[:, k], scores.clusters, seed=asked.seed, confidence=asked.confidence,
                draws=asked.resamples,
            )
            for k in chosen
        ]  # fmt: skip
        if chosen:
            _errorbars(
                axes, [float(scores.budgets[k]) for k in chosen], bands, color=figures.COLD, markerfacecolor=face,
                label=f"{label}, {asked.confidence:.0%} interval", markersize=7, zorder=3,
            )  # fmt: skip
    _controls(axes, found)
    if FULL in means:
        axes.axhline(
            means[FULL] - asked.margin, color=figures.MARGIN, linestyle="--", linewidth=1,
            label=f"budget 1.0 less the margin ({asked.margin:g})",
        )  # fmt: skip
    place = found.half
    if found.call.outcome == "transition" and place.low is not None and place.high is not None:
        axes.axvspan(
            place.low, place.high, color=figures.HIT, alpha=0.15, linewidth=0,
            label=f"middle of the fall, {asked.confidence:.0%} interval",
        )  # fmt: skip
    low = min([*means, 1.0])
    axes.set_xlim(1.0 + 0.03 * (1 - low) + 0.01, max(low - 0.03 * (1 - low) - 0.01, 0.0))
    axes.set_ylim(-0.04, 1.04)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=10)
    return figure


def _axis(found: Analysis) -> str:
    where = "; a number of them stands at its share of the mean context" if found.scores.tokens else ""
    return f"budget (share of KV entries kept{where})"


def _errorbars(axes: "Axes", places: list[float], bands: list[Any], **style: Any) -> None:  # noqa: ANN401 - matplotlib's own
    middles = [band.estimate for band in bands]
    ends = [
        [band.estimate - (band.estimate if band.low is None else band.low) for band in bands],
        [(band.estimate if band.high is None else band.high) - band.estimate for band in bands],
    ]
    axes.errorbar(places, middles, yerr=np.maximum(ends, 0.0), fmt="o", capsize=3, **style)


def _controls(axes: "Axes", found: Analysis) -> None:
    random = [
        (item.budget, item.control) for item in found.random if item.budget and item.control is not None
    ]
    if random:
        places, means = zip(*random, strict=True)
        axes.plot(
            places, means, "s--", color=figures.OTHER, markersize=5, label="random entries kept", zorder=2
        )
    without = found.no_context
    if without and without.control is not None:
        axes.axhline(without.control, color=figures.PURPLE, linestyle=":", linewidth=1.6, label="no context")


Ends = list[tuple[float, float, str, str]]


def _named(figure: "Figure", ends: Ends) -> "Figure":
    """Write each budget at the end of its curve."""
    (axes,) = figure.axes
    figures.label_ends(axes, ends, right=0.2)
    axes.set_xticks(
        [tick for tick in axes.get_xticks() if tick <= max((end[0] for end in ends), default=0.0)]
    )
    return figure


def _by_bin(found: Analysis, value: str, y: str, title: str) -> "tuple[Figure, Ends]":
    """Draw one curve a budget; return the figure, and where each curve ends."""
    from matplotlib.colors import to_hex
    from matplotlib.ticker import MaxNLocator

    stats = _curve_stats(found)
    figure, axes = figures.new(title, "length bin (short to long)", y)
    budgets, shades, shifts = _shades(stats)
    curves: Ends = []
    for k, budget in enumerate(budgets):
        rows = stats[(stats["budget"] == budget) & stats[value].notna()].sort_values("bin_idx")
        if not len(rows):
            continue
        added = (rows["phase"] == "added").all()
        middle = rows[value].astype(float).to_numpy()
        ends = np.zeros((2, len(rows)))
        if value == "acc_mean":
            low, high = (
                rows[f"acc_ci_{end}"].astype(float).fillna(rows[value]).to_numpy() for end in ("low", "high")
            )
            ends = np.maximum([middle - low, high - middle], 0.0)
        axes.errorbar(
            rows["bin_idx"] + shifts[k], middle, yerr=ends if value == "acc_mean" else None, color=shades[k],
            fmt=_MARKS[k % len(_MARKS)] + ("--" if added else "-"), capsize=2, linewidth=1.2, elinewidth=0.8, markersize=6,
            markerfacecolor="white" if added else shades[k],
        )  # fmt: skip
        name = found.scores.name(float(budget)) + (" (added)" if added else "")
        curves.append(
            (float(rows["bin_idx"].iloc[-1] + shifts[k]), float(middle[-1]), name, to_hex(shades[k]))
        )
    axes.set_xlim(-0.5, found.asked.n_bins - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if value != "latency_p50_ms":
        axes.set_ylim(-0.04, 1.04)
    else:
        axes.set_ylim(bottom=0)
    right = max((end[0] for end in curves), default=0.0)
    return figure, [(right, *end[1:]) for end in curves]


def _latency(found: Analysis) -> "Figure":
    """Draw each measurement as a point, and the medians of the bins that have enough of them."""
    stats = _curve_stats(found)
    from matplotlib.colors import to_hex

    figure, ends = _by_bin(found, "latency_p50_ms", "latency (ms)", "Latency by length bin")
    (axes,) = figure.axes
    clock, _ = timings(found.frame)
    clock = clock[clock["phase"] != "control_random"]
    budgets, shades, shifts = _shades(stats)
    with_median = set(stats.loc[stats["latency_p50_ms"].notna(), "budget"])
    for budget, shade, shift in zip(budgets, shades, shifts, strict=True):
        rows = clock[clock["budget"] == budget]
        times = column(rows, "latency_ms")
        axes.plot(rows["bin_idx"] + shift, times, "o", color=shade, markersize=4, alpha=0.6)
        if budget not in with_median and len(rows):
            ends.append(
                (found.asked.n_bins - 0.7, float(times[-1]), found.scores.name(float(budget)), to_hex(shade))
            )
    axes.autoscale(axis="y")  # `_by_bin` has fixed it where there was no median
    axes.set_ylim(bottom=0)
    return _named(figure, ends)


def _shades(stats: pd.DataFrame) -> tuple[list[float], Any, Any]:
    """Return the budgets, ascending, with a colour and a place beside each other, so that none hides another."""
    from matplotlib import colormaps

    budgets = sorted(stats["budget"].unique())
    spread = min(0.32, 0.03 * (len(budgets) - 1))
    shades = colormaps["viridis_r"](np.linspace(0.3, 1.0, max(len(budgets), 2)))[: len(budgets)]
    return budgets, shades, np.linspace(-spread, spread, len(budgets))


def _flips(found: Analysis) -> "Figure":
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    scores = found.scores
    is_right, known = right(scores)
    cells = np.where(scores.failed, 2, np.where(known, is_right.astype(int), 3))
    order = np.lexsort((np.arange(len(cells)), -is_right.sum(axis=1), scores.bins))
    colours = [figures.HIT, figures.COLD, "#222222", "#eeeeee"]
    figure, axes = figures.new(
        "Each example at each budget: right or wrong", "budget", "examples, by length bin"
    )
    axes.grid(False)
    axes.imshow(
        cells[order], aspect="auto", interpolation="none", cmap=ListedColormap(colours), vmin=-0.5, vmax=3.5
    )
    names = [
        scores.name(float(b)) + ("" if planned else "\nadded")
        for b, planned in zip(scores.budgets, scores.planned, strict=True)
    ]
    axes.set_xticks(range(len(names)), names, fontsize=10 if len(names) <= 9 else 7)
    axes.set_xticks(np.arange(0.5, len(names) - 1), minor=True)
    axes.grid(which="minor", axis="x", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    places, first = [], 0
    for b in np.unique(scores.bins):
        count = int((scores.bins == b).sum())
        places.append((first + (count - 1) / 2, f"bin {b}"))
        first += count
        if first < len(cells):
            axes.axhline(first - 0.5, color="white", linewidth=3)
    axes.set_yticks([place for place, _ in places], [name for _, name in places])
    labels = ("wrong", "right", "no answer", "not asked")
    shown = [Patch(color=colours[k], label=labels[k]) for k in range(4) if (cells == k).any()]
    figure.legend(handles=shown, loc="outside lower center", ncols=4, frameon=False)
    return figure
