import threading

import pytest

from kvlab.load.inbox import Inbox


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
