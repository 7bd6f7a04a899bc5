"""Many requests at once, in one loop: non-blocking sockets, each read stamped before all else.

An event loop with a task a request costs ten times what a socket does. Here one `select` tells which
of the sockets have something, each is read and stamped at once, and nothing is parsed but where a
response ends (`kvlab.timing.incoming`). What the bytes mean is for another process.
"""

import contextlib
import select
import selectors
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kvlab.taxonomy import ErrorType
from kvlab.timing.clock import now_ns
from kvlab.timing.incoming import Incoming
from kvlab.timing.request import Failure, Target

_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(slots=True)
class Exchange:
    """One sending of one request, and what came of it.

    Attributes:
        key: Whatever the caller knows it by.
        due_ns: When it was to be sent.
        sent_ns: Just before its first byte went out on an open connection; ``None``: it never did.
        incoming: What has arrived.
        ended_ns: When it was over: the last read, the end of the connection, the timeout.
        closed: Whether the server ended the connection.
        failure: What the transport knows to have gone wrong.
    """

    key: Any
    request: bytes
    due_ns: int
    sent_ns: int | None = None
    incoming: Incoming = field(default_factory=Incoming)
    ended_ns: int | None = None
    closed: bool = False
    failure: Failure | None = None


@dataclass(slots=True, eq=False)
class _Link:
    """A connection; ``open`` once it can carry requests."""

    socket: socket.socket
    open: bool = False
    exchange: Exchange | None = None
    unsent: memoryview | None = None


class Pump:
    """Sends what it is given, and hands each exchange back when it is over.

    Args:
        target: Where requests go; its timeout is that of each exchange, connecting included.
        finished: Called with each exchange that is over, in whatever way.
    """

    def __init__(self, target: Target, finished: Callable[[Exchange], None]) -> None:
        self.target, self._finished = target, finished
        self.connections_opened = 0
        self.in_flight = 0
        self.pass_ns = 0  # how long the last `poll` was busy: what arrived meanwhile waited for it
        self._selector = selectors.DefaultSelector()
        self._idle: list[_Link] = []
        self._deadlines: deque[tuple[int, _Link, Exchange]] = deque()
        url = target.url
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._host = url.hostname or ""
        self._address = _resolve(self._host, url.port or (443 if self._tls else 80))

    def watch(self, descriptor: int, events: int, ready: Callable[[], None]) -> None:
        """Call ``ready`` when a descriptor can be read or written, among all else."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)
        if events:
            self._selector.register(descriptor, events, ready)

    def open_ahead(self, count: int) -> int:
        """Open connections before the clock starts. Returns how many are open."""
        links = [link for _ in range(count) if (link := self._connect()) is not None]
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
            fresh = self._connect()
            if fresh is None:
                self._end(None, exchange, Failure(ErrorType.ENGINE_ERROR, "no connection"))
                return
            link = fresh
        link.exchange = exchange
        self._deadlines.append((now_ns() + int(self.target.timeout_s * 1e9), link, exchange))
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
            if isinstance(key.data, _Link):
                self._ready(key.data, mask)
            else:
                key.data()
        self._expire()
        self.pass_ns = now_ns() - awake_ns

    def close(self) -> None:
        """Close all connections; what is in flight is given up without a word."""
        for key in list((self._selector.get_map() or {}).values()):
            if isinstance(key.data, _Link):
                key.data.socket.close()
        self._selector.close()

    def _connect(self) -> _Link | None:
        family, address = self._address
        plain = socket.socket(family, socket.SOCK_STREAM)
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            plain.connect(address)
        except BlockingIOError:
            pass
        except OSError:
            plain.close()
            return None
        link = _Link(plain)
        self._selector.register(plain, _WRITE, link)
        return link

    def _ready(self, link: _Link, mask: int) -> None:
        if not link.open:
            self._go_on_connecting(link)
        elif link.exchange is None:
            self._drop(link)  # the server closes an idle connection, or says what nobody asked for
        elif mask & _READ:
            self._read(link, link.exchange)
        elif mask & _WRITE:
            self._write_more(link, link.exchange)

    def _go_on_connecting(self, link: _Link) -> None:
        """Finish connecting, then TLS's handshake; then the connection is open."""
        try:
            if error := link.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error, "no connection")
            if self._tls is not None:
                if not isinstance(link.socket, ssl.SSLSocket):
                    self._selector.unregister(link.socket)
                    link.socket = self._tls.wrap_socket(
                        link.socket, server_hostname=self._host, do_handshake_on_connect=False
                    )
                    self._selector.register(link.socket, _READ | _WRITE, link)
                link.socket.do_handshake()
        except ssl.SSLWantReadError:
            self._selector.modify(link.socket, _READ, link)
            return
        except ssl.SSLWantWriteError:
            return
        except OSError as error:
            self._give_up(link, Failure(ErrorType.ENGINE_ERROR, f"no connection: {error}"))
            return
        link.open = True
        self.connections_opened += 1
        self._selector.modify(link.socket, _READ, link)
        if link.exchange is None:
            self._idle.append(link)
        else:
            self._write(link, link.exchange)

    def _write(self, link: _Link, exchange: Exchange) -> None:
        exchange.sent_ns = now_ns()
        link.unsent = memoryview(exchange.request)
        self._write_more(link, exchange)

    def _write_more(self, link: _Link, exchange: Exchange) -> None:
        unsent = link.unsent
        try:
            while unsent:
                unsent = unsent[link.socket.send(unsent) :]
        except _BLOCKED:
            link.unsent = unsent
            self._selector.modify(link.socket, _READ | _WRITE, link)
            return
        except OSError as error:
            self._give_up(link, Failure(ErrorType.ENGINE_ERROR, str(error)))
            return
        if link.unsent is not None and len(link.unsent) < len(exchange.request):
            self._selector.modify(link.socket, _READ, link)
        link.unsent = None

    def _read(self, link: _Link, exchange: Exchange) -> None:
        try:
            data = link.socket.recv(65_536)
            t_ns = now_ns()
            if not data:
                self._peer_closed(link, exchange, t_ns)
                return
            complete = exchange.incoming.feed(t_ns, data)
            while not complete and self._tls is not None and link.socket.pending():  # type: ignore[attr-defined]
                complete = exchange.incoming.feed(now_ns(), link.socket.recv(65_536))
        except _BLOCKED:
            return
        except (OSError, ValueError) as error:
            self._give_up(link, Failure(ErrorType.ENGINE_ERROR, str(error), exchange.incoming.status or None))
            return
        if complete:
            link.exchange = None
            if exchange.incoming.keep_alive:
                self._idle.append(link)
            else:
                self._drop(link)
            self._end(t_ns, exchange, None)

    def _peer_closed(self, link: _Link, exchange: Exchange, t_ns: int) -> None:
        """Some responses end with their connection; whether this is one, the full reader will say."""
        exchange.closed = True
        link.exchange = None
        self._drop(link)
        self._end(t_ns, exchange, None)

    def _until_deadline_s(self) -> float:
        return (self._deadlines[0][0] - now_ns()) / 1e9 if self._deadlines else 3600.0

    def _expire(self) -> None:
        """End what has taken too long. Deadlines are in the order of sending."""
        while self._deadlines:
            deadline_ns, link, exchange = self._deadlines[0]
            if link.exchange is exchange and deadline_ns > now_ns():
                return
            self._deadlines.popleft()
            if link.exchange is exchange:
                message = f"no complete answer within {self.target.timeout_s:g} s"
                status = exchange.incoming.status or None
                self._give_up(link, Failure(ErrorType.TIMEOUT, message, status))

    def _give_up(self, link: _Link, failure: Failure) -> None:
        exchange, link.exchange = link.exchange, None
        self._drop(link)
        if exchange is not None:
            self._end(now_ns(), exchange, failure)

    def _drop(self, link: _Link) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(link.socket)
        link.socket.close()

    def _end(self, t_ns: int | None, exchange: Exchange, failure: Failure | None) -> None:
        exchange.ended_ns, exchange.failure = t_ns, failure
        self.in_flight -= 1
        self._finished(exchange)


def _resolve(host: str, port: int) -> tuple[int, Any]:
    """Look a name up once, before the clock starts.

    Raises:
        OSError: The name is unknown.
    """
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return family, address
