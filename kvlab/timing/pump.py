"""Many requests at once, in one loop: non-blocking sockets, each read stamped before all else.

An event loop with a task a request costs ten times what a socket does. Here one `select` tells which
of the sockets have something, each is read and stamped at once, and nothing is parsed but where a
response ends (`kvlab.timing.incoming`). What the bytes mean is for another process.
"""

import contextlib
import select
import selectors
from collections import OrderedDict
from collections.abc import Callable

from kvlab.taxonomy import ErrorType
from kvlab.timing.clock import now_ns
from kvlab.timing.link import READ, WRITE, Exchange, Link
from kvlab.timing.request import Failure, Target
from kvlab.timing.route import BLOCKED, Route, still_open


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
        self.connections_opened = 0
        self.in_flight = 0
        self.pass_ns = 0  # how long the last `poll` was busy: what arrived meanwhile waited for it
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
        while self._idle:
            link = self._idle.pop()
            if link.socket.fileno() >= 0:
                break
        else:
            try:
                link = self._connect()
            except OSError as error:
                self._unconnected(exchange, error)
                return
        link.exchange = exchange
        self._deadlines[exchange] = (now_ns() + int(self.target.timeout_s * 1e9), link)
        if link.open:
            self._write(link, exchange)

    def poll(self, timeout_s: float) -> None:
        """Wait until something happens, at most so long, and deal with all of it."""
        if timeout_s > 0:
            timeout_s = min(timeout_s, self._until_deadline_s())
            # select() takes microseconds where epoll_wait() rounds up to whole milliseconds.
            select.select([self._selector.fileno()], [], [], max(0.0, timeout_s))
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
        self._selector.register(link.socket, WRITE, link)
        return link

    def _ready(self, link: Link, mask: int) -> None:
        if not link.open:
            self._go_on_connecting(link)
        elif link.exchange is None:
            if not still_open(link.socket):
                self._drop(link)
        elif mask & READ:
            self._read(link, link.exchange)
        elif mask & WRITE:
            self._write_more(link, link.exchange)

    def _go_on_connecting(self, link: Link) -> None:
        """Finish connecting, then TLS's handshake; then the connection is open."""
        try:
            waits_for = link.go_on_connecting(self._route)
        except OSError as error:
            self._route.missed()
            exchange, link.exchange = link.exchange, None
            self._drop(link)
            if exchange is not None:
                self._unconnected(exchange, error)
            return
        self._selector.modify(link.socket, waits_for or READ, link)  # TLS's has the same descriptor
        if waits_for:
            return
        self._route.reached()
        self.connections_opened += 1
        if link.exchange is None:
            self._idle.append(link)
        else:
            self._write(link, link.exchange)

    def _write(self, link: Link, exchange: Exchange) -> None:
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
            self._selector.modify(link.socket, READ | WRITE, link)
            return
        except OSError as error:
            self._give_up(link, Failure(ErrorType.ENGINE_ERROR, str(error)))
            return
        if link.unsent is not None and len(link.unsent) < len(exchange.request):
            self._selector.modify(link.socket, READ, link)
        link.unsent = None

    def _read(self, link: Link, exchange: Exchange) -> None:
        try:
            data = link.socket.recv(65_536)
            t_ns = now_ns()
            if not data:
                self._peer_closed(link, exchange, t_ns)
                return
            complete = exchange.incoming.feed(t_ns, data)
            while not complete and self._route.secure and link.socket.pending():  # type: ignore[attr-defined]
                complete = exchange.incoming.feed(now_ns(), link.socket.recv(65_536))
        except BLOCKED:
            return
        except (OSError, ValueError) as error:
            self._give_up(link, Failure(ErrorType.ENGINE_ERROR, str(error), exchange.incoming.status or None))
            return
        if complete:
            link.exchange = None
            if exchange.incoming.keep_alive and link.unsent is None:  # else it is out of step
                self._idle.append(link)
            else:
                self._drop(link)
            self._end(t_ns, exchange, None)

    def _peer_closed(self, link: Link, exchange: Exchange, t_ns: int) -> None:
        """Some responses end with their connection; whether this is one, the full reader will say."""
        exchange.closed = True
        link.exchange = None
        self._drop(link)
        self._end(t_ns, exchange, None)

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
            status = exchange.incoming.status or None
            self._give_up(link, Failure(ErrorType.TIMEOUT, message, status))

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
        self.in_flight -= 1
        self._finished(exchange)
