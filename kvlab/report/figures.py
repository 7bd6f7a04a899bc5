"""The look of all figures, and their bytes: one style, drawn once, used in notebook, report and docs.

Colours are Okabe and Ito's, which colour-blind readers can tell apart; a curve carries its name at its end; a
logarithmic axis has plain numbers. Read at the width of a README (about 700 px), no text is below 9 px.
"""

import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

#: One colour a role, from the Okabe-Ito palette.
COLD, HIT, OTHER, MARGIN = "#0072B2", "#D55E00", "#8C8C8C", "#009E73"
#: Further ones of it, for series that have no role.
PURPLE, SKY, ORANGE = "#CC79A7", "#56B4E9", "#E69F00"
#: Text and axes. A page replaces it by its own ink (`kvlab.report.svg`), so nothing else has this colour.
INK = "#1f2023"

_STYLE: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "font.size": 11,
    "font.family": "DejaVu Sans",  # it comes with matplotlib: the same glyphs on every machine
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": OTHER,
    "grid.alpha": 0.22,
    "legend.frameon": False,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "path",
    "svg.hashsalt": "kvlab",
}


def new(title: str, x: str, y: str) -> "tuple[Figure, Axes]":
    """Return an empty figure with labelled axes. No pyplot: nothing global, nothing left open."""
    figure, (axes,) = panels(1, 1, title, width=7.2, height=4.2)
    axes.set(xlabel=x, ylabel=y)
    return figure, axes


def panels(
    rows: int, columns: int, title: str, *, width: float = 4.6, height: float = 3.4
) -> "tuple[Figure, list[Axes]]":
    """Return an empty figure of ``rows`` × ``columns`` axes, row by row; the size in inches is a panel's."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12, color=INK, parse_math=False)
    return figure, list(axes.flat)


def legend_below(figure: "Figure", axes: "Axes", *, columns: int = 4) -> None:
    """Name bars and marks below the axes, where nothing is covered."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=min(columns, len(handles)), frameon=False
        )


def label_ends(
    axes: "Axes",
    ends: Iterable[tuple[float, float, str, str]],
    *,
    fontsize: float = 10,
    right: float = 0.3,
    lines: int = 1,
) -> None:
    """Write each curve's name beside its last point, in its colour, and move apart those that would touch.

    Call it last: places are those of the axes as they are then.

    Args:
        axes: With its scales and limits set; the limits to the right grow by ``right`` of the width for the names.
        ends: x, y, the text and the colour of each.
        fontsize: In points.
        lines: How many lines the longest name has.
        right: How much room the names get, as a share of the axes' width.
    """
    named = [end for end in ends if all(value == value for value in end[:2])]
    if not named:
        return
    transform = axes.transAxes.inverted()
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    widen(axes, right)
    places = [transform.transform(axes.transData.transform((x, y))) for x, y, _, _ in named]
    gap = lines * fontsize * 1.35 * 1.15 / (72 * axes.bbox.height / axes.figure.dpi)
    top = 1.0 - gap * (1 - 1 / lines) / 2  # a name of several lines has its middle at its height
    for index, y in zip(*_apart([float(place[1]) for place in places], gap, top), strict=True):
        text, colour = named[index][2:]
        axes.text(
            float(places[index][0]) + 0.015, y, text, transform=axes.transAxes, color=colour, fontsize=fontsize,
            va="center", ha="left",
        )  # fmt: skip


def _apart(heights: Sequence[float], gap: float, top: float) -> tuple[list[int], list[float]]:
    """Return the order from below, and heights of which no two are nearer than ``gap``, and none above ``top``."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = list[float]()
    for index in order:
        placed.append(max(heights[index], placed[-1] + gap) if placed else max(heights[index], 0.02))
    over = max(0.0, placed[-1] - top) if placed else 0.0
    for place in range(len(placed) - 1, -1, -1):
        above = placed[place + 1] - gap if place + 1 < len(placed) else placed[place] - over
        placed[place] = min(placed[place], above)
    return order, placed


def widen(axes: "Axes", share: float) -> None:
    """Make room to the right of what is drawn: ``share`` of the width, on the axis' own scale."""
    transform = axes.transScale
    left, right = axes.get_xlim()
    start, end = (float(transform.transform((x, 1.0))[0]) for x in (left, right))
    wider = float(transform.inverted().transform((end + (end - start) * share, 1.0))[0])
    axes.set_xlim(left, wider)


def plain_log(axis: "Axis") -> None:
    """Give a logarithmic axis plain numbers at 1, 2 and 5 of each decade: nobody reads 3 × 10¹."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_view_interval()
    many = low > 0 and high / low > 300
    axis.set_major_locator(LogLocator(subs=(1.0,) if many else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def nothing(axes: "Axes", why: str = "nothing was measured") -> None:
    """Say in the middle of the axes why they are empty."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center")


def png(figure: "Figure") -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    return _written(figure, "png", {"Software": None})


def svg(figure: "Figure") -> bytes:
    """Return a figure as SVG, the same bytes for the same figure."""
    return _written(figure, "svg", {"Date": None, "Creator": None})


def _written(figure: "Figure", form: str, metadata: dict[str, Any]) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with rc_context(_STYLE):
        # Pixels stand on white wherever they are shown; an SVG takes the ground of its page, as it takes its ink.
        figure.savefig(buffer, format=form, metadata=metadata, transparent=form == "svg")
    return buffer.getvalue()
