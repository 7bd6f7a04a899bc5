"""One request beside another, stamp by stamp: a figure and a table of raw stamps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvlab.timing.stamps import Stamps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kvlab.report.shown import Shown

#: The moments in the order in which they come, with what people call them.
MOMENTS = (
    ("sent_ns", "request written"),
    ("first_byte_ns", "first byte"),
    ("first_token_ns", "first token"),
    ("last_token_ns", "last token"),
    ("done_ns", "response complete"),
)

_HEIGHT = 0.42  # of a bar
#: A first byte that comes so close before the first token has no mark of its own.
_TOGETHER = 0.05


@dataclass(frozen=True)
class Timeline:
    """Requests over time, each from the moment in which it was written.

    Attributes:
        rows: A name (most often the cache state) and the raw stamps of each request.
    """

    rows: Sequence[tuple[str, Stamps]]

    def table(self) -> "Shown":
        """Return the raw stamps, ns on the client's clock, and ms since the request was written."""
        from kvlab.report.shown import Shown  # takes a while

        found = Shown({"moment": [words for _, words in MOMENTS]})
        for name, stamps in self.rows:
            raw = [getattr(stamps, moment) for moment, _ in MOMENTS]
            found[f"{name}: clock (ns)"] = raw
            found[f"{name}: since written (ms)"] = [_since(stamps, at) for at in raw]
        return found.convert_dtypes()

    def draw(self) -> "Figure":
        """Return the figure: one row a request, on one time axis."""
        from kvlab.report import figures

        figure, axes = figures.new("", "ms since the request was written", "")
        figure.set_size_inches(8.2, 0.9 + 0.95 * len(self.rows))
        for place, (name, stamps) in enumerate(self.rows):
            _draw_row(axes, place, stamps, _colour(name))
        axes.set_yticks(range(len(self.rows)), [name for name, _ in self.rows])
        axes.set_ylim(len(self.rows) - 0.45, -0.6)
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.02)
        axes.set_xlim(left=0)
        return figure

    def _repr_png_(self) -> bytes:
        from kvlab.report import figures

        return figures.png(self.draw())

    def __repr__(self) -> str:
        return "\n".join(f"{name}: {_in_words(stamps)}" for name, stamps in self.rows)


def _since(stamps: Stamps, at_ns: int | None) -> float | None:
    return None if at_ns is None else round((at_ns - stamps.sent_ns) / 1e6, 1)


def _in_words(stamps: Stamps) -> str:
    since = ((words, _since(stamps, getattr(stamps, moment))) for moment, words in MOMENTS[1:])
    return ", ".join(f"{words} {'–' if ms is None else f'{ms:,.1f} ms'}" for words, ms in since)


def _colour(name: str) -> str:
    from kvlab.report import figures

    return next(
        (c for word, c in (("cold", figures.COLD), ("hit", figures.HIT)) if word in name), figures.OTHER
    )


def _draw_row(axes: "Axes", place: int, stamps: Stamps, colour: str) -> None:
    """Draw the wait for the first token as a bar, the generation as a line with a tick for each token."""
    byte, ttft, last = (
        _since(stamps, at) for at in (stamps.first_byte_ns, stamps.first_token_ns, stamps.last_token_ns)
    )
    if ttft is None:
        axes.text(0, place, f" {stamps.ttft_words}", va="center")
        return
    axes.barh(place, ttft, height=_HEIGHT, color=colour)
    ticks = [(at - stamps.sent_ns) / 1e6 for at in stamps.token_ns]
    axes.hlines(place, ttft, last or ttft, color=colour, linewidth=1)
    axes.vlines(ticks, place - _HEIGHT / 2, place + _HEIGHT / 2, color=colour, linewidth=1)
    first = f"first token {ttft:,.0f} ms"
    if byte is not None and ttft - byte < _TOGETHER * ttft:
        first = f"first byte and {first}"
    elif byte is not None:
        axes.vlines(byte, place - _HEIGHT / 2, place + _HEIGHT / 2, color="white", linewidth=2)
        axes.text(byte, place + _HEIGHT * 0.6, f"first byte {byte:,.0f} ms", va="top", ha="left", fontsize=9)
    axes.text(ttft, place - _HEIGHT * 0.6, first, va="bottom", ha="left", fontsize=9)
    if last is not None and last > ttft:
        axes.text(last, place + _HEIGHT * 0.6, f"last token {last:,.0f} ms", va="top", ha="right", fontsize=9)
