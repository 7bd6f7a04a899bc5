"""The pictures of the report."""

from typing import TYPE_CHECKING

import numpy as np

from kvlab.experiments.cache_laws.outcomes import Outcomes
from kvlab.findings import Picture
from kvlab.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_STEPS = 20_000


def pictures(found: Outcomes) -> list[Picture]:
    """Return the staircase of the law, and the survival curve where it was asked for."""
    made, curve = [], found.get("lifetime").get("curve", ())
    if "law" in found.params.parts:
        made.append(
            Picture(
                name="cached_over_length",
                title="Cached tokens over prompt length",
                caption=(
                    "Left: prompts that were repeated whole, over their length. Right: prompts that share a part with an "
                    "earlier one and end elsewhere, over the length of that part. The line is the law; what lies between "
                    "it and the dashed line, where every known token would be reused, is why hits are fewer than expected. Dots: "
                    f"learned from; diamonds: held out, and predicted. n = {len(found.judged)} readings."
                ),
                empty=not len(found.judged),
                draw=lambda: _staircase(found),
            )
        )
    if "lifetime" in found.params.parts:
        made.append(
            Picture(
                name="lifetime",
                title="Idle entries over time",
                caption="Share of prompts that were served whole after so long a wait. Shaded: where they go. "
                f"n = {sum(one['n'] for one in curve):,} prompts.",
                empty=not curve,
                draw=lambda: _survival(found),
            )
        )
    return made


def _staircase(found: Outcomes) -> "Figure":
    figure, (left, right) = figures.panels(1, 2, "Cached tokens over prompt length", width=4.9, height=4.2)
    readings = found.judged
    whole = readings[readings["whole"].astype(bool)] if len(readings) else readings
    parts = readings[~readings["whole"].astype(bool)] if len(readings) else readings
    left.set(title="prompt repeated whole", xlabel="prompt (tokens)", ylabel="cached (tokens)")
    right.set(
        title="only the first part shared",
        xlabel="shared leading part (tokens, template included)",
        ylabel="cached (tokens)",
    )
    for axes, rows, column in ((left, whole, "prompt_tokens"), (right, parts, "prefix_tokens")):
        x, y = rows[column].astype(float), rows["cached_tokens"].astype(float)
        most = max(float(x.max()), 1.0) if len(rows) else 1.0
        end = _law_line(axes, found, most, whole=axes is left)
        axes.plot([0, most], [0, most], "--", color=figures.OTHER, linewidth=1)
        held = rows["held_out"].astype(bool)
        axes.plot(x[~held], y[~held], "o", color=figures.COLD, alpha=0.6, markersize=5)
        axes.plot(x[held], y[held], "D", color=figures.HIT, markersize=6)
        axes.set_xlim(0, 1.05 * most)
        axes.set_ylim(-0.03 * most, 1.08 * most)
        ends = [(most, most, "every\ntoken", figures.OTHER)]
        ends += [] if end is None else [(*end, "the law", figures.MARGIN)]
        figures.label_ends(axes, ends, right=0.2, lines=2)
    return figure


def _law_line(axes: "Axes", found: Outcomes, most: float, *, whole: bool) -> tuple[float, float] | None:
    """Draw the law; return where its line ends."""
    law = found.law
    if law is None:
        return None
    x = np.unique(np.linspace(0, round(most), _MOST_STEPS).astype(int))
    # Of the parts, the end of the prompt is far away and binds nothing.
    far = law.always_computed_tokens + law.grain_tokens + (law.tail_grain_tokens or 0)
    lengths = x if whole else x + far + law.grains_off * law.grain_tokens
    y = [law.predict(int(n), int(p)) for n, p in zip(lengths, x, strict=True)]
    axes.step(x, y, where="post", color=figures.MARGIN, linewidth=1.6)
    return float(x[-1]), float(y[-1])


def _survival(found: Outcomes) -> "Figure":
    figure, axes = figures.new("Idle entries over time", "wait (s)", "served whole (%)")
    curve = found.get("lifetime").get("curve", ())
    axes.plot(
        [one["wait_s"] for one in curve],
        [100 * one["kept"] / one["n"] for one in curve],
        "o-",
        color=figures.HIT,
    )
    if (high := found.get("lifetime").get("ttl_s_high")) is not None:
        low = found.get("lifetime")["ttl_s_low"]
        axes.axvspan(low, high, color=figures.MARGIN, alpha=0.25, linewidth=0)
        axes.annotate(f"lifetime: {low:,.1f} to {high:,.1f} s", (high, 50), xytext=(6, 0), textcoords="offset points",
                      color=figures.MARGIN, va="center")  # fmt: skip
    axes.set_ylim(-3, 103)
    if not curve:
        figures.nothing(axes)
    return figure
