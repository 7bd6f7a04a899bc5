"""Memory over time, as a figure."""

from typing import TYPE_CHECKING

from kvlab.report import figures

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLOURS = (figures.COLD, figures.HIT, figures.MARGIN, figures.PURPLE, figures.SKY)


def memory_over_time(
    samples: "pd.DataFrame", windows: "pd.DataFrame", title: str = "Memory over time"
) -> "Figure":
    """Return one line per series, with the trials as shaded stretches.

    Args:
        samples: Of `kvlab.vram.timeline.samples`.
        windows: Of `kvlab.vram.timeline.windows`.
        title: The figure's.
    """
    figure, axes = figures.new(title, "time since the first sample (s)", "memory in use (MiB)")
    marks = windows.drop_duplicates(["session_id", "name", "attempt"])
    for place, (start_s, end_s) in enumerate(zip(marks["start_s"], marks["end_s"], strict=True)):
        shade = 0.16 if place % 2 else 0.07
        axes.axvspan(start_s, end_s, color=figures.OTHER, alpha=shade, linewidth=0)
    ends = []
    for place, (series, part) in enumerate(samples.groupby("series", sort=True)):
        colour = _COLOURS[place % len(_COLOURS)]
        for _, session in part.groupby("session_id", sort=True):
            used = session["used_bytes"] / 2**20
            axes.plot(session["t_s"], used, color=colour, linewidth=1.2)
        ends.append(
            (float(session["t_s"].iloc[-1]), float(used.iloc[-1]), str(series).replace("_", " "), colour)
        )
    if len(samples):
        figures.label_ends(axes, ends)
    else:
        figures.nothing(axes, "no memory could be read")
    return figure
