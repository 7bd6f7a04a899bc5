"""How a server is reached: which of its addresses answers, TLS on the way, and why a connection failed."""

import errno
import os
import select
import socket
import ssl
import time
from typing import Any
from urllib.parse import SplitResult

from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure
from kvlab.timing.response import ResponseReader

#: Nothing to read or write just now.
BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
#: What `Route.step` waits for.
READ, WRITE = 1, 2
_TRY_S = 3.0  # for one of several addresses
_STALE_NS = 1_000_000_000
_LOCAL = frozenset((errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM))


class Route:
    """The way to one server, looked up once, before the clock starts.

    A name can have several addresses, of which some lead nowhere: ``localhost`` is ``::1`` and
    ``127.0.0.1``, and a server may listen on either. Each is tried once; where none answers yet, each
    failed connection leads to the next one, until one is made.

    Args:
        url: Where to.
        look: Whether to find out at once which of several addresses answers; else each `open` tries them.

    Raises:
        OSError: The name is unknown.
    """

    def __init__(self, url: SplitResult, *, look: bool = True) -> None:
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._host = url.hostname or ""
        found = socket.getaddrinfo(
            self._host, url.port or (443 if self._tls else 80), type=socket.SOCK_STREAM
        )
        self._addresses: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in found]
        self._settled = len(self._addresses) == 1
        if not self._settled and look:
            at = _first_that_answers(self._addresses)
            self._addresses = [*self._addresses[at:], *self._addresses[:at]]

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return self._tls is not None

    def begin(self) -> socket.socket:
        """Return a non-blocking socket that is on its way.

        Raises:
            OSError: It cannot even set off: no file descriptor, no port, no network.
        """
        family, address = self._addresses[0]
        plain = socket.socket(family, socket.SOCK_STREAM)
        try:
            plain.setblocking(False)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            plain.connect(address)
        except BlockingIOError:
            pass
        except OSError:
            plain.close()
            self.missed()
            raise
        return plain

    def step(self, going: socket.socket) -> tuple[socket.socket, int]:
        """Take the next step to an open connection; with TLS the socket becomes another object.

        Returns:
            The socket, and which events to wait for before the step after; 0: it is open.

        Raises:
            OSError: It failed (TLS: ssl.SSLError).
        """
        if error := going.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(error, os.strerror(error))
        if self._tls is None:
            return going, 0
        if not isinstance(going, ssl.SSLSocket):
            going = self._tls.wrap_socket(going, server_hostname=self._host, do_handshake_on_connect=False)
        try:
            going.do_handshake()
        except ssl.SSLWantReadError:
            return going, READ
        except ssl.SSLWantWriteError:
            return going, WRITE
        return going, 0

    def open(self, timeout_s: float) -> socket.socket:
        """Return an open connection to the first address that makes one, within a time for all of it.

        Raises:
            OSError: None does.
        """
        deadline = time.monotonic() + timeout_s
        problem: OSError = TimeoutError(f"none within {timeout_s:g} s")
        for left in range(len(self._addresses), 0, -1):
            within_s = (deadline - time.monotonic()) / left
            try:
                return self._one(within_s)
            except OSError as error:
                problem = error
                self.missed()
        raise problem

    def _one(self, within_s: float) -> socket.socket:
        deadline = time.monotonic() + within_s
        going, waits_for = self.begin(), WRITE
        try:
            while waits_for:
                left_s = deadline - time.monotonic()
                reads = [going] if waits_for == READ else []
                writes = [going] if waits_for == WRITE else []
                if left_s <= 0 or not any(select.select(reads, writes, [], left_s)):
                    raise TimeoutError(f"none within {within_s:.3g} s")
                going, waits_for = self.step(going)
        except BaseException:
            going.close()
            raise
        self.reached()
        return going

    def reached(self) -> None:
        """A connection is open: this is the address."""
        self._settled = True

    def missed(self) -> None:
        """A connection failed: unless one has been made here, another address may be the right one."""
        if not self._settled:
            self._addresses.append(self._addresses.pop(0))


def still_open(idle: socket.socket) -> bool:
    """Whether a non-blocking connection that has something to read, unasked, can be used all the same.

    TLS 1.3 sends session tickets after its handshake: bytes for TLS, none for us.
    """
    try:
        idle.recv(1)  # the end, or bytes that nobody has asked for
    except BLOCKED:
        return True
    except OSError:
        return False
    return False


def is_stale(reader: ResponseReader, failure: Failure | None, since_sent_ns: int) -> bool:
    """Whether a request on a kept connection failed since the server had closed it: nothing came, and soon.

    Servers close kept connections unannounced (llama.cpp's after each stream), and the news and the next
    request pass each other. A server that hangs up later has read the request, and died of it perhaps.
    """
    if failure is None or failure.error_type is not ErrorType.ENGINE_ERROR:
        return False
    return reader.first_byte_ns is None and since_sent_ns < _STALE_NS


def is_local(cause: OSError | None) -> bool:
    """Whether this machine, not the server, is what a connection failed on: no descriptor, no port."""
    return cause is not None and cause.errno in _LOCAL


def is_lasting(cause: OSError | None) -> bool:
    """Whether waiting does not help: a certificate that is not trusted stays so."""
    return isinstance(cause, ssl.SSLCertVerificationError)


def _first_that_answers(addresses: list[tuple[int, Any]]) -> int:
    """Return which address is the first that accepts a connection; where none does, 0."""
    for number, (family, address) in enumerate(addresses):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as tried:
                tried.settimeout(_TRY_S)
                tried.connect(address)
                return number
        except OSError:
            continue
    return 0
