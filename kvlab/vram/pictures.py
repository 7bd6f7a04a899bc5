"""Memory over time, as a figure."""

from typing import TYPE_CHECKING

from kvlab.report import figures

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLOURS = (figures.COLD, figures.HIT, figures.MARGIN, "#CC79A7", "#56B4E9")


def memory_over_time(
    samples: "pd.DataFrame", windows: "pd.DataFrame", title: str = "Memory over time"
) -> "Figure":
    """Return one line per series, with the trials as shaded stretches.

    Args:
        samples: Of `kvlab.vram.timeline.samples`.
        windows: Of `kvlab.vram.timeline.windows`.
        title: The figure's.
    """
    figure, axes = figures.new(title, "seconds since the first sample", "memory in use, MiB")
    marks = windows.drop_duplicates(["session_id", "name", "attempt"])
    for place, (start_s, end_s) in enumerate(zip(marks["start_s"], marks["end_s"], strict=True)):
        shade = 0.16 if place % 2 else 0.07
        axes.axvspan(start_s, end_s, color=figures.OTHER, alpha=shade, linewidth=0)
    for place, (series, part) in enumerate(samples.groupby("series", sort=True)):
        colour = _COLOURS[place % len(_COLOURS)]
        for number, (_, session) in enumerate(part.groupby("session_id", sort=True)):
            label = str(series) if number == 0 else None
            axes.plot(session["t_s"], session["used_bytes"] / 2**20, color=colour, linewidth=1.2, label=label)
    if len(samples):
        axes.legend(loc="best")
    else:
        axes.text(0.5, 0.5, "no memory could be read", transform=axes.transAxes, ha="center")
    return figure
