"""A pair of requests, stamp by stamp."""

import pytest

from kvlab.report.timeline import Timeline
from kvlab.timing.stamps import Stamps

MS = 1_000_000
COLD = Stamps(5 * MS, 805 * MS, 806 * MS, 806 * MS, 906 * MS, 907 * MS, (806 * MS, 856 * MS, 906 * MS))
HELD_BACK = Stamps(0, 900 * MS, done_ns=901 * MS, untimed="the stream is buffered on its way")


def test_raw_stamps_and_times_since_the_request_was_written():
    table = Timeline([("cold", COLD)]).table()
    assert table["moment"].tolist()[:3] == ["request written", "first byte", "first token"]
    assert table["cold: clock (ns)"].tolist() == [5 * MS, 805 * MS, 806 * MS, 906 * MS, 907 * MS]
    assert table["cold: since written (ms)"].tolist() == [0, 800, 801, 901, 902]
    assert "806,000,000" in table._repr_html_()


def test_a_stamp_that_never_came_is_a_dash_and_the_figure_says_why():
    timeline = Timeline([("cold", COLD), ("hit", HELD_BACK)])
    assert "first token –" in repr(timeline)
    (axes,) = timeline.draw().axes
    words = " ".join(text.get_text() for text in axes.texts)
    assert "first byte and first token 801 ms" in words
    assert "last token 901 ms" in words
    assert "buffered on its way" in words
    assert len(axes.patches) == 1, "no bar for a wait that is not known"


@pytest.mark.parametrize("states", [("cold", "hit"), ("hit", "hit")])
def test_each_row_has_its_name(states):
    figure = Timeline([(f"{state} {n}", COLD) for n, state in enumerate(states)])
    assert figure._repr_png_().startswith(b"\x89PNG")
    assert len(figure.table().columns) == 5


def test_a_first_byte_long_before_the_first_token_has_a_mark_of_its_own():
    early = Stamps(0, 10 * MS, 800 * MS, 800 * MS, 900 * MS, 901 * MS, (800 * MS, 900 * MS))
    (axes,) = Timeline([("cold", early)]).draw().axes
    words = [text.get_text() for text in axes.texts]
    assert words == ["first byte 10 ms", "first token 800 ms", "last token 900 ms"]
