"""How a server is reached: which of its addresses answers, TLS on the way, and why a connection failed."""

import errno
import socket
import ssl
from typing import Any
from urllib.parse import SplitResult

#: Nothing to read or write just now.
BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_TRY_S = 3.0  # for one of several addresses
_LOCAL = frozenset((errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM))


class Route:
    """The way to one server, looked up once, before the clock starts.

    A name can have several addresses, of which some lead nowhere: ``localhost`` is ``::1`` and
    ``127.0.0.1``, and a server may listen on either. Each is tried once; where none answers yet, each
    failed connection leads to the next one, until one is made.

    Raises:
        OSError: The name is unknown.
    """

    def __init__(self, url: SplitResult) -> None:
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._host = url.hostname or ""
        found = socket.getaddrinfo(
            self._host, url.port or (443 if self._tls else 80), type=socket.SOCK_STREAM
        )
        self._addresses: list[tuple[int, Any]] = [(family, address) for family, _, _, _, address in found]
        self._settled = len(self._addresses) == 1
        if not self._settled:
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

    def secured(self, plain: socket.socket) -> socket.socket:
        """Return the socket as TLS's, whose handshake is still to be made; as it is, where there is none."""
        if self._tls is None or isinstance(plain, ssl.SSLSocket):
            return plain
        return self._tls.wrap_socket(plain, server_hostname=self._host, do_handshake_on_connect=False)

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


def is_local(cause: OSError | None) -> bool:
    """Whether this machine, not the server, is what a connection failed on: no descriptor, no port."""
    return cause is not None and cause.errno in _LOCAL


def is_lasting(cause: OSError | None) -> bool:
    """Whether waiting cannot mend it: a certificate that is not trusted stays so."""
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
