"""One connection of the pump, and what travels on it."""

import os
import selectors
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any

from kvlab.timing.incoming import Incoming
from kvlab.timing.request import Failure
from kvlab.timing.route import Route

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@dataclass(slots=True, eq=False)
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
        cause: Why no connection could be opened, where that is what went wrong.
    """

    key: Any
    request: bytes
    due_ns: int
    sent_ns: int | None = None
    incoming: Incoming = field(default_factory=Incoming)
    ended_ns: int | None = None
    closed: bool = False
    failure: Failure | None = None
    cause: OSError | None = None


@dataclass(slots=True, eq=False)
class Link:
    """A connection; ``open`` once it can carry requests."""

    socket: socket.socket
    open: bool = False
    exchange: Exchange | None = None
    unsent: memoryview | None = None

    def go_on_connecting(self, route: Route) -> int:
        """Take the next step to an open connection; with TLS the socket becomes another object.

        Returns:
            Which events to wait for before the step after; 0: it is open.

        Raises:
            OSError: It failed (TLS: ssl.SSLError).
        """
        if error := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
        self.socket = route.secured(self.socket)
        if isinstance(self.socket, ssl.SSLSocket):
            try:
                self.socket.do_handshake()
            except ssl.SSLWantReadError:
                return READ
            except ssl.SSLWantWriteError:
                return WRITE
        self.open = True
        return 0
