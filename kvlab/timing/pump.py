"""Many requests at once, in one loop: non-blocking sockets, each read stamped before all else.

An event loop with a task a request costs ten times what a socket does. Here one `select` tells which
of the sockets have something, and each is read and stamped at once; the parser that finds out where a
response ends (`kvlab.timing.response`) takes microseconds. What the bytes mean is for another process.
"""

import contextlib
import select
import selectors
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kvlab.taxonomy import ErrorType
from kvlab.timing.clock import BEAT_S, Watch, now_ns
from kvlab.timing.request import Failure, Target, Transfer
from kvlab.timing.response import ResponseReader, WireError
from kvlab.timing.route import BLOCKED, READ, WRITE, Route, is_stale, still_open

#: What all answers on their way may hold together; the one that is over its share is given up.
MAX_HELD_BYTES = 2**30


@dataclass(slots=True, eq=False)
class Exchange:
    """One sending of one request, and what came of it.

    Attributes:
        key: Whatever the caller knows it by.
        due_ns: When it was to be sent.
        sent_ns: Just before its first byte went out on an open connection; ``None``: it never did.
        reader: What has arrived.
        ended_ns: When it was over: the last read, the end of the connection, the timeout.
        failure: What the transport knows to have gone wrong.
        cause: Why no connection could be opened, where that is what went wrong.
        reconnects: How often it was sent anew since a kept connection turned out to be closed.
        client_stall_ms: How long this process did not run while it was on its way.
    """

    key: Any
    request: bytes
    due_ns: int
    sent_ns: int | None = None
    reader: ResponseReader = field(default_factory=ResponseReader)
    ended_ns: int | None = None
    failure: Failure | None = None
    cause: OSError | None = None
    reconnects: int = 0
    client_stall_ms: float = 0.0
    broken: OSError | None = None  # why not all of it could be sent
    stalled_before_ns: int = 0

    @property
    def transfer(self) -> Transfer:
        """What the transport knows of it."""
        return Transfer(self.sent_ns or 0, self.failure, self.reconnects, self.client_stall_ms)


@dataclass(slots=True, eq=False)
class Link:
    """A connection; ``open`` once it can carry requests, ``used`` once it has carried one."""

    socket: socket.socket
    open: bool = False
    used: bool = False
    exchange: Exchange | None = None
    unsent: memoryview | None = None


class Pump:
    """Sends what it is given, and hands each exchange back when it is over.

    Args:
        target: Where requests go; its timeout is that of each exchange, connecting included.
        finished: Called with each exchange that is over, in whatever way.

    Raises:
        OSError: The server's name is unknown.
    """

    def __init__(self, target: Target, finished: Callable[[Exchange], None]) -> None:
        self.target, self._finished = target, finished
        self.connections_opened = self.reconnects = 0
        self.in_flight = 0
        self.held_bytes = 0  # by the answers that are on their way
        self.pass_ns = 0  # how long the last `poll` was busy: what arrived meanwhile waited for it
        self.stalls = Watch()
        self._selector = selectors.DefaultSelector()
        self._idle: list[Link] = []
        #: Of what is in flight alone: what is over must not be held behind what takes long.
        self._deadlines: OrderedDict[Exchange, tuple[int, Link]] = OrderedDict()
        self._route = Route(target.url)

    def watch(self, descriptor: int, events: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` when a descriptor can be read or written, among all else."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)
        if events:
            self._selector.register(descriptor, events, ready)

    def open_ahead(self, count: int) -> int:
        """Open connections before the clock starts. Returns how many are open."""
        links: list[Link] = []
        with contextlib.suppress(OSError):  # who is sent on a link that is missing will hear of it
            links.extend(self._connect() for _ in range(count))
        limit = now_ns() + int(min(10.0, self.target.timeout_s) * 1e9)
        while any(not link.open and link.socket.fileno() >= 0 for link in links) and now_ns() < limit:
            self.poll(0.05)
        return len(self._idle)

    def send(self, exchange: Exchange) -> None:
        """Send on an idle connection, or on a new one as soon as it is open."""
        self.in_flight += 1
        exchange.reader.max_bytes = self.target.max_bytes
        while self._idle:
            link = self._idle.pop()
            if link.socket.fileno() >= 0:
                self._carry(link, exchange)
                return
        self._send_anew(exchange)

    def poll(self, timeout_s: float) -> None:
        """Wait until something happens, at most so long, and deal with all of it."""
        if self.in_flight:  # a stall of this process must show
            timeout_s = min(timeout_s, BEAT_S)
        if timeout_s > 0:
            timeout_s = min(timeout_s, self._until_deadline_s())
            # select() takes microseconds where epoll_wait() rounds up to whole milliseconds.
            select.select([self._selector.fileno()], [], [], max(0.0, timeout_s))
        if self.in_flight:
            self.stalls.beat()
        else:
            self.stalls.start()
        awake_ns = now_ns()
        for key, mask in self._selector.select(0):
            if isinstance(key.data, Link):
                self._ready(key.data, mask)
            else:
                key.data()
        self._expire()
        self.pass_ns = now_ns() - awake_ns

    def close(self) -> None:
        """Close all connections; what is in flight is given up without a word."""
        for key in list((self._selector.get_map() or {}).values()):
            if isinstance(key.data, Link):
                key.data.socket.close()
        self._selector.close()

    def _connect(self) -> Link:
        link = Link(self._route.begin())
        self._selector.register(link.socket, selectors.EVENT_WRITE, link)
        return link

    def _send_anew(self, exchange: Exchange) -> None:
        try:
            link = self._connect()
        except OSError as error:
            self._unconnected(exchange, error)
            return
        self._carry(link, exchange)

    def _carry(self, link: Link, exchange: Exchange) -> None:
        link.exchange = exchange
        self._deadlines[exchange] = (now_ns() + int(self.target.timeout_s * 1e9), link)
        if link.open:
            self._write(link, exchange)

    def _ready(self, link: Link, mask: int) -> None:
        if not link.open:
            self._go_on_connecting(link)
        elif link.exchange is None:
            if not still_open(link.socket):
                self._drop(link)
        elif mask & selectors.EVENT_READ:
            self._read(link, link.exchange)
        elif mask & selectors.EVENT_WRITE:
            self._write_more(link, link.exchange)

    def _go_on_connecting(self, link: Link) -> None:
        """Finish connecting, then TLS's handshake; then the connection is open."""
        try:
            link.socket, waits_for = self._route.step(link.socket)
        except OSError as error:
            self._route.missed()
            exchange, link.exchange = link.exchange, None
            self._drop(link)
            if exchange is not None:
                self._unconnected(exchange, error)
            return
        # TLS's has the same descriptor.
        self._selector.modify(link.socket, _EVENTS[waits_for or READ], link)
        if waits_for:
            return
        link.open = True
        self._route.reached()
        self.connections_opened += 1
        if link.exchange is None:
            self._idle.append(link)
        else:
            self._write(link, link.exchange)

    def _write(self, link: Link, exchange: Exchange) -> None:
        if self.in_flight == 1:
            self.stalls.start()  # while nothing was on its way, this process may have done what it liked
        exchange.stalled_before_ns = self.stalls.stalled_ns
        exchange.sent_ns = now_ns()
        link.unsent = memoryview(exchange.request)
        self._write_more(link, exchange)

    def _write_more(self, link: Link, exchange: Exchange) -> None:
        unsent = link.unsent
        try:
            while unsent:
                unsent = unsent[link.socket.send(unsent) :]
        except BLOCKED:
            link.unsent = unsent
            self._selector.modify(link.socket, _EVENTS[READ] | _EVENTS[WRITE], link)
            return
        except OSError as error:
            exchange.broken = error  # it may have said why before it hung up: that is read next
        if link.unsent is not None and len(link.unsent) < len(exchange.request):
            self._selector.modify(link.socket, _EVENTS[READ], link)
        link.unsent = None

    def _read(self, link: Link, exchange: Exchange) -> None:
        reader = exchange.reader
        held = reader.size
        try:
            data = link.socket.recv(65_536)
            t_ns = now_ns()
            if not data:
                self._peer_closed(link, exchange, t_ns)
                return
            complete = reader.feed(t_ns, data)
            # What TLS has decrypted already makes no socket readable; there is at most one record of it.
            while not complete and self._route.secure and link.socket.pending():  # type: ignore[attr-defined]
                t_ns = now_ns()
                complete = reader.feed(t_ns, link.socket.recv(65_536))
        except BLOCKED:
            return
        except (OSError, WireError) as error:
            self._failed(link, exchange, exchange.broken or error)
            return
        finally:
            self.held_bytes += reader.size - held
        if complete:
            link.exchange = None
            if (
                reader.keep_alive and link.unsent is None and exchange.broken is None
            ):  # else it is out of step
                link.used = True
                self._idle.append(link)
            else:
                self._drop(link)
            self._end(t_ns, exchange, None)
        elif self.held_bytes > MAX_HELD_BYTES and reader.size * self.in_flight >= self.held_bytes:
            words = (
                f"the answers on their way hold more than {MAX_HELD_BYTES // 2**20} MiB, this one the most"
            )
            self._give_up(link, Failure(ErrorType.ENGINE_ERROR, words, reader.status))

    def _peer_closed(self, link: Link, exchange: Exchange, t_ns: int) -> None:
        """Some responses end with their connection."""
        if not exchange.reader.end(t_ns):
            self._failed(link, exchange, exchange.broken or ConnectionError(exchange.reader.cut_off()))
            return
        link.exchange = None
        self._drop(link)
        self._end(t_ns, exchange, None)

    def _failed(self, link: Link, exchange: Exchange, error: Exception) -> None:
        failure = Failure(ErrorType.ENGINE_ERROR, str(error), exchange.reader.status)
        if link.used and is_stale(exchange.reader, failure, now_ns() - (exchange.sent_ns or 0)):
            self._send_again(link, exchange)
        else:
            self._give_up(link, failure)

    def _send_again(self, link: Link, exchange: Exchange) -> None:
        """The server had closed the kept connection: on a new one, and the clock starts anew."""
        link.exchange = None
        self._drop(link)
        self._deadlines.pop(exchange, None)
        exchange.reader.close()
        exchange.reader = ResponseReader(self.target.max_bytes)
        exchange.sent_ns = exchange.broken = None
        exchange.reconnects += 1
        self.reconnects += 1
        self._send_anew(exchange)

    def _until_deadline_s(self) -> float:
        if not self._deadlines:
            return 3600.0
        return (self._deadlines[next(iter(self._deadlines))][0] - now_ns()) / 1e9

    def _expire(self) -> None:
        """End what has taken too long. Deadlines are in the order of sending."""
        while self._deadlines:
            exchange = next(iter(self._deadlines))
            deadline_ns, link = self._deadlines[exchange]
            if deadline_ns > now_ns():
                return
            message = f"no complete answer within {self.target.timeout_s:g} s"
            if not link.open:
                exchange.cause = TimeoutError(f"no connection within {self.target.timeout_s:g} s")
            self._give_up(link, Failure(ErrorType.TIMEOUT, message, exchange.reader.status))

    def _give_up(self, link: Link, failure: Failure) -> None:
        exchange, link.exchange = link.exchange, None
        self._drop(link)
        if exchange is not None:
            self._end(now_ns(), exchange, failure)

    def _drop(self, link: Link) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(link.socket)
        link.socket.close()

    def _unconnected(self, exchange: Exchange, cause: OSError) -> None:
        exchange.cause = cause
        self._end(None, exchange, Failure(ErrorType.ENGINE_ERROR, f"no connection: {cause}"))

    def _end(self, t_ns: int | None, exchange: Exchange, failure: Failure | None) -> None:
        self._deadlines.pop(exchange, None)
        exchange.ended_ns, exchange.failure = t_ns, failure
        self.stalls.stop()
        exchange.client_stall_ms = (self.stalls.stalled_ns - exchange.stalled_before_ns) / 1e6
        exchange.reader.close()
        self.held_bytes -= exchange.reader.size
        self.in_flight -= 1
        self._finished(exchange)


_EVENTS = {READ: selectors.EVENT_READ, WRITE: selectors.EVENT_WRITE}
