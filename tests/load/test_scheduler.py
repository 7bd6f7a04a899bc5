"""What an unreachable server and a machine at its limits mean for what is sent next. Time is handed in."""

import errno
import ssl
from dataclasses import replace

import pytest

from kvlab.load.job import Job, Progress, Retries
from kvlab.load.scheduler import Scheduler
from kvlab.prompts.batch import Workload
from kvlab.taxonomy import ErrorType
from kvlab.timing.arrivals import Arrivals
from kvlab.timing.request import Failure, Target

S = 10**9
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
FULL = OSError(errno.EMFILE, "Too many open files")


@pytest.fixture
def scheduler():
    job = Job("", "r", "t", 1, "shared", "tag", 4, Workload("shared", "abc", "text"), Arrivals("closed", 1),
              Target("http://x/v1"), {"model": "m"}, retries=Retries(outage_limit_s=10.0))  # fmt: skip
    made = Scheduler(job, Progress())
    made.start(0)
    return made


def fail(scheduler, t_ns, cause):
    scheduler.unreachable(scheduler.next(t_ns), t_ns, cause)


def test_an_outage_is_the_servers_and_costs_no_attempt(scheduler):
    fail(scheduler, 0, REFUSED)
    assert scheduler.next(1) is None, "one try at a time"
    again = scheduler.next(S)
    assert (again.item, again.attempt) == (0, 1)
    scheduler.reachable(2 * S)
    assert scheduler.outages == [(0, 2 * S)]
    assert dict(scheduler.unconnected) == {str(REFUSED): 1}


def test_a_shortage_of_this_machine_is_no_outage_of_the_server(scheduler):
    fail(scheduler, 0, FULL)
    scheduler.reachable(2 * S)
    assert scheduler.outages == []
    assert dict(scheduler.unconnected) == {str(FULL): 1}


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        (REFUSED, "the server has accepted no connection for 10 s (.*refused"),
        (FULL, "this machine has opened no connection for 10 s (.*open files"),
    ],
)
def test_who_is_given_up_on_is_named_with_the_reason(scheduler, cause, words):
    for second in range(12):
        assert not scheduler.over
        fail(scheduler, second * S, cause)
    who, _, why = words.partition("(.*")
    assert scheduler.gave_up.startswith(who)
    assert why in scheduler.gave_up


def test_what_no_waiting_mends_is_given_up_at_once(scheduler):
    fail(scheduler, 0, ssl.SSLCertVerificationError(1, "certificate verify failed: self-signed"))
    assert scheduler.over
    assert "self-signed" in scheduler.gave_up


BUSY = Failure(ErrorType.RATE_LIMITED, "slow down", 429)
BROKEN = Failure(ErrorType.ENGINE_ERROR, "boom", 500)


def test_a_busy_server_costs_time_and_no_attempts(scheduler):
    """Six attempts are allowed; a server that says "later" for eight seconds is asked until it answers."""
    outgoing, t_ns, asked = scheduler.next(0), 0, 1
    while t_ns < 8 * S:
        assert scheduler.again(outgoing, t_ns, replace(BUSY, retry_after_s=0.5))
        t_ns += 31 * S  # whatever the pause was, it is over
        t_ns = min(t_ns, 8 * S)
        outgoing = scheduler.next(t_ns + 31 * S)
        asked += 1
        assert (outgoing.item, outgoing.attempt) == (0, asked)
    assert scheduler.again(outgoing, t_ns, BROKEN)


def test_a_server_that_stays_busy_is_given_up_after_the_limit_of_an_outage(scheduler):
    outgoing = scheduler.next(0)
    assert scheduler.again(outgoing, 0, BUSY)
    outgoing = scheduler.next(S * 5)
    assert not scheduler.again(outgoing, S * 11, BUSY)


def test_what_breaks_again_and_again_has_as_many_attempts_as_are_allowed(scheduler):
    again, attempts = True, 0
    while again:
        outgoing = scheduler.next(attempts * 100 * S + 50 * S)
        assert outgoing.item == 0
        attempts += 1
        again = scheduler.again(outgoing, attempts * 100 * S, BROKEN)
    assert attempts == scheduler.job.retries.max_attempts


def test_a_retry_after_is_obeyed(scheduler):
    assert scheduler.again(scheduler.next(0), 0, replace(BUSY, retry_after_s=6.0))
    scheduler._built.clear()
    assert scheduler.next(5 * S) is None or scheduler.next(5 * S).item != 0
    assert scheduler.next(10 * S).item == 0
