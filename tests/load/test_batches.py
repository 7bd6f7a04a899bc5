"""How long a row can wait before it is on its way to the disk, and how much. The clock is handed in."""

import threading

import pytest

from kvlab.load import batches, generator
from kvlab.load.batches import Batches, Inbox


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
    assert taken.last_report == {"wall_s": 1.0}
    assert taken.next() is None


def test_messages_come_out_in_order_and_waiting_for_none_ends():
    inbox = Inbox(100)
    for number in range(3):
        inbox.put(number, 10)
    assert [inbox.get(0.1) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(TimeoutError):
        inbox.get(0.01)


def test_a_full_inbox_makes_the_sender_wait_until_there_is_room():
    inbox, sent = Inbox(20), threading.Semaphore(0)

    def send():
        for number in range(10):
            inbox.put(number, 10)
            sent.release()

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    for _ in range(2):
        assert sent.acquire(timeout=10)
    assert not sent.acquire(timeout=0.1), "the third does not fit"
    assert inbox.waiting_bytes == 20
    assert [inbox.get(10) for _ in range(10)] == list(range(10))
    sender.join(timeout=10)
    assert inbox.waiting_bytes == 0


def test_a_message_larger_than_all_that_fits_passes_alone():
    inbox = Inbox(20)
    inbox.put("large", 1000)
    assert inbox.get(1) == "large"
