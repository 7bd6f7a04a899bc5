"""How long a row can wait before it is on its way to the disk. The clock is handed in."""

import pytest

from kvlab.load import batches, generator
from kvlab.load.batches import Batches


class Arriving:
    """Messages that come ``gap_s`` apart on a clock of its own."""

    def __init__(self, gap_s, messages):
        self.gap_s, self.messages, self.now = gap_s, list(messages), 0.0
        self.due = gap_s

    def get(self, timeout_s):
        assert timeout_s > 0
        if not self.messages or self.due > self.now + timeout_s:
            self.now += timeout_s
            raise TimeoutError
        self.now = max(self.now, self.due)
        self.due += self.gap_s
        return self.messages.pop(0)


@pytest.mark.parametrize("gap_s", [0.0001, 0.01, 0.1, 0.4, 3.0])
def test_no_row_waits_longer_than_half_a_second(gap_s):
    arriving = Arriving(gap_s, [[number] for number in range(2000)])
    taken = Batches(arriving, lambda: arriving.now)
    seen = []
    while len(seen) < 2000:
        began = arriving.now
        batch = taken.next()
        waited_s = arriving.now - began  # of the first row of the batch, at the most
        assert waited_s + generator.FLUSH_NS / 1e9 <= 0.5
        assert len(batch) <= batches.COMMIT_ROWS
        seen += batch
    assert seen == list(range(2000))


def test_the_end_comes_after_what_the_generator_says_and_loses_nothing():
    arriving = Arriving(0.01, [["a"], ["b", "c"], {"wall_s": 1.0}, None])
    taken = Batches(arriving, lambda: arriving.now)
    assert taken.next() == ["a", "b", "c"]
    assert taken.said == {"wall_s": 1.0}
    assert taken.next() is None
