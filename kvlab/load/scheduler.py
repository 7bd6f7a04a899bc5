"""Which request is sent next, and when: arrivals, conversations that wait for answers, retries, outages."""

import heapq
import random
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from kvlab.load.job import Job, Progress
from kvlab.prompts.batch import Conversation, Message
from kvlab.timing.request import Failure
from kvlab.timing.route import is_lasting, is_local

AHEAD = 256  # requests built ahead of their sending
PROBE_NS = 500_000_000  # between two tries of a server that accepts no connection


class Outgoing(NamedTuple):
    """One sending: which item, which attempt of it, its bytes, and when it is due."""

    item: int
    attempt: int
    request: bytes
    due_ns: int
    messages: list[Message]


class Scheduler:
    """Decides what is sent next. Time is handed in, so that it can be tested without a clock."""

    def __init__(self, job: Job, progress: Progress) -> None:
        self.job, self.progress = job, progress
        self.outages: list[tuple[int, int]] = []
        self.unconnected: Counter[str] = Counter()  # why no connection could be opened, and how often
        self.gave_up: str | None = None
        self.stopped = False
        self._left = job.items - len(progress.final)
        self._draw = random.Random(job.workload.seed)  # noqa: S311 - jitter
        self._attempts = dict(progress.attempts)
        self._free: deque[int] = deque()  # a closed loop's places: since when each is free
        self._offsets = job.arrivals.offsets_s()
        self._start_ns = 0
        self._due_ns = 0
        self._built: deque[tuple[int, list[Message], bytes]] = deque()
        self._later: list[tuple[int, int]] = []  # (when, item) of those to be sent again
        self._again: dict[int, tuple[list[Message], bytes]] = {}
        self._busy_since_ns: dict[int, int] = {}  # of items that the server was too busy for
        self._busy_attempts: Counter[int] = Counter()
        self._outage_ns: int | None = None
        self._servers = False  # whether it is the server's, and no shortage of this machine
        self._blocked_until_ns = 0
        self._conversations = self._resume_conversations() if job.workload.kind == "conversation" else []
        self._items = self._order()

    def start(self, t_ns: int) -> None:
        """Begin: the moments of an open loop count from here."""
        self._start_ns = t_ns
        self._free.extend([t_ns] * self.job.arrivals.concurrency)
        self._due_ns = t_ns + int(next(self._offsets) * 1e9)

    @property
    def over(self) -> bool:
        """Whether nothing more will be sent."""
        return self.stopped or self._left == 0 or self.gave_up is not None

    def stop(self) -> None:
        """Send nothing more."""
        self.stopped = True

    def build_ahead(self, most: int = AHEAD) -> None:
        """Build the next requests, so that none is built when it is due."""
        while len(self._built) < most and (item := next(self._items, None)) is not None:
            self._built.append((item, *self._build(item)))

    def next(self, t_ns: int) -> Outgoing | None:
        """Return what is to be sent now, if anything is."""
        if self.over or t_ns < self._blocked_until_ns:
            return None
        if self._outage_ns is not None:
            self._blocked_until_ns = t_ns + PROBE_NS  # one at a time, until a connection opens
        if self._later and self._later[0][0] <= t_ns:
            due_ns, item = heapq.heappop(self._later)
            messages, request = self._again.pop(item)
            return self._outgoing(item, messages, request, due_ns)
        closed = self.job.arrivals.is_closed
        if (not self._free) if closed else self._due_ns > t_ns:
            return None
        if not self._built:
            self.build_ahead(1)
        if not self._built:
            return None
        item, messages, request = self._built.popleft()
        due_ns = self._free.popleft() if closed else self._due_ns
        if not closed:
            self._due_ns = self._start_ns + int(next(self._offsets) * 1e9)
        return self._outgoing(item, messages, request, due_ns)

    def wait_s(self, t_ns: int) -> float:
        """Return how long nothing is due, unless an answer comes; at most a second."""
        moments = [self._later[0][0]] if self._later else []
        if not self.job.arrivals.is_closed and self._built:
            moments.append(self._due_ns)
        due_ns = max(min(moments, default=t_ns + 10**9), self._blocked_until_ns)
        return min(1.0, max(0.0, (due_ns - t_ns) / 1e9))

    def again(self, outgoing: Outgoing, t_ns: int, failure: Failure) -> bool:
        """Plan another attempt after a failure that may not come again. Returns whether there is one left.

        A server that says that it is busy (429, 503) costs time, at most ``outage_limit_s`` an item, not
        attempts.
        """
        retries, item = self.job.retries, outgoing.item
        made = outgoing.attempt - self.progress.attempts.get(item, 0)
        wait_s = min(retries.max_wait_s, retries.wait_s * 2 ** min(made - 1, 20)) * self._draw.uniform(
            0.5, 1.5
        )
        wait_s = max(wait_s, min(failure.retry_after_s or 0.0, retries.outage_limit_s))
        busy = failure.is_outage and failure.http_status is not None
        if busy:
            since_ns = self._busy_since_ns.setdefault(item, t_ns)
            if t_ns - since_ns + wait_s * 1e9 > retries.outage_limit_s * 1e9:
                return False
        elif outgoing.attempt - self._busy_attempts[item] >= retries.max_attempts:
            return False
        self._busy_attempts[item] += busy
        self._put_back(outgoing, t_ns + int(wait_s * 1e9))
        return True

    def final(self, outgoing: Outgoing, t_ns: int, text: str | None) -> None:
        """An item has its answer, or has failed for good: its place is free."""
        self._left -= 1
        self._busy_since_ns.pop(outgoing.item, None)
        self._busy_attempts.pop(outgoing.item, None)
        if self.job.arrivals.is_closed:
            self._free.append(t_ns)
        if self._conversations:
            self._next_turn(outgoing.item, text)

    def unreachable(self, outgoing: Outgoing, t_ns: int, cause: OSError | None = None) -> None:
        """No connection could be opened: nothing was sent, so that was no attempt."""
        self._attempts[outgoing.item] -= 1
        if self._outage_ns is None:
            self._outage_ns, self._servers = t_ns, False
        self._servers = self._servers or not is_local(cause)
        self._blocked_until_ns = t_ns + PROBE_NS
        why = str(cause or "no reason known")
        self.unconnected[why] += 1
        limit_s = self.job.retries.outage_limit_s
        if is_lasting(cause):
            self.gave_up = f"no connection: {why}"
        elif t_ns - self._outage_ns > limit_s * 1e9:
            who = "the server has accepted" if self._servers else "this machine has opened"
            self.gave_up = f"{who} no connection for {limit_s:g} s ({why})"
        self._put_back(outgoing, outgoing.due_ns)

    def reachable(self, t_ns: int) -> None:
        """Something was sent on an open connection."""
        if self._outage_ns is not None:
            if self._servers:
                self.outages.append((self._outage_ns, t_ns))
            self._outage_ns, self._blocked_until_ns = None, 0

    def _put_back(self, outgoing: Outgoing, due_ns: int) -> None:
        self._again[outgoing.item] = (outgoing.messages, outgoing.request)
        heapq.heappush(self._later, (due_ns, outgoing.item))

    def _outgoing(self, item: int, messages: list[Message], request: bytes, due_ns: int) -> Outgoing:
        attempt = self._attempts[item] = self._attempts.get(item, 0) + 1
        if attempt > 1 or not request:
            request = self._encode(item, attempt, messages)
        return Outgoing(item, attempt, request, due_ns, messages)

    def _build(self, item: int) -> tuple[list[Message], bytes]:
        workload = self.job.workload
        if self._conversations:
            messages = self._conversations[item % len(self._conversations)].ask(item)
        else:
            messages = [workload.question(item)]
        return messages, self._encode(item, self._attempts.get(item, 0) + 1, messages)

    def _encode(self, item: int, attempt: int, messages: list[Message]) -> bytes:
        workload = self.job.workload
        body: dict[str, Any] = {**self.job.body, "messages": [workload.system(item), *messages]}
        if self.job.salted:
            body["cache_salt"] = workload.marker_of(item)
        name = {"X-Request-Id": self.job.request_id(item, attempt)}
        return self.job.target.encode("/chat/completions", body, name)

    def _order(self) -> Iterator[int]:
        """Yield the items that can be built: all, or of each conversation the next one."""
        done = self.progress.final
        if not self._conversations:
            yield from (item for item in range(self.job.items) if item not in done)
            return
        while self._turns:
            yield self._turns.popleft()

    def _resume_conversations(self) -> list[Conversation]:
        """Replay what is answered, and note the first open item of each conversation."""
        self._turns: deque[int] = deque()
        count, found = min(self.job.workload.conversations, self.job.items), []
        for place in range(count):
            conversation = Conversation(self.job.workload)
            item = place
            while item in self.progress.final:
                conversation.ask(item)
                conversation.answer(item, self.progress.answers.get(item))
                item += count
            if item < self.job.items:
                self._turns.append(item)
            found.append(conversation)
        return found

    def _next_turn(self, item: int, text: str | None) -> None:
        count = len(self._conversations)
        self._conversations[item % count].answer(item, text)
        if item + count < self.job.items:
            self._turns.append(item + count)
            self._items = self._order()
