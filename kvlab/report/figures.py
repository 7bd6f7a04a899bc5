"""The look of all figures, and their bytes."""

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: One colour a role, from the Okabe-Ito palette, which colour-blind readers can tell apart.
COLD, HIT, OTHER, MARGIN = "#0072B2", "#D55E00", "#999999", "#009E73"

_STYLE: Any = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def new(title: str, x: str, y: str) -> "tuple[Figure, Axes]":
    """Return an empty figure with labelled axes. No pyplot: nothing global, nothing left open."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.add_subplot()
        axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def panels(
    rows: int, columns: int, *, width: float = 4.6, height: float = 3.4
) -> "tuple[Figure, list[Axes]]":
    """Return an empty figure of ``rows`` × ``columns`` axes, row by row; the size in inches is a panel's."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def png(figure: "Figure") -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
