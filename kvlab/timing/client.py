"""The measuring client for one request at a time: a plain blocking socket.

It lives underneath the openai SDK: `make bench` shows what the SDK's own stream adds. With nothing
else to do while it waits, a blocking read is the shortest way from the arrival of a byte to its
stamp; an event loop's is about 0.05 ms longer. There is no proxy, no redirect, no retry and no
decompression: each would be inside the measured time. Retries belong to the caller.
"""

import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, Self

from kvlab.taxonomy import ErrorType
from kvlab.timing.clock import now_ns
from kvlab.timing.request import Failure, Measurement, Target, interpret
from kvlab.timing.response import ResponseReader, WireError
from kvlab.timing.stamps import Stamps

CONNECT_S = 30.0


class Client:
    """One keep-alive connection, opened before the clock starts and reused."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, path: str, body: Mapping[str, Any], request_id: str) -> Measurement:
        """POST a streaming request and measure its answer.

        Never raises for what a server or a network can do: that is a `Failure` with partial stamps.
        """
        request = self.target.encode(path, body, {"X-Request-Id": request_id})
        try:
            connected = self._connected()
        except OSError as error:
            nowhere = Failure(ErrorType.ENGINE_ERROR, f"no connection: {error}")
            return Measurement(Stamps(sent_ns=now_ns()), None, nowhere)
        reader = ResponseReader()
        failure: Failure | None = None
        sent_ns = now_ns()
        try:
            _exchange(connected, request, reader, time.monotonic() + self.target.timeout_s)
        except TimeoutError:
            message = f"no complete answer within {self.target.timeout_s:g} s"
            failure = Failure(ErrorType.TIMEOUT, message, reader.status)
        except (OSError, WireError) as error:
            failure = Failure(ErrorType.ENGINE_ERROR, str(error), reader.status)
        finally:
            if reader.done_ns is None or not reader.keep_alive:  # also on Ctrl-C: it is out of step
                self.close()
        return interpret(self.target, sent_ns, reader, failure)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        """Return an open connection: the one that is there, unless the server has dropped it."""
        if self._socket is not None and not _usable(self._socket):
            self.close()
        if self._socket is None:
            url = self.target.url
            timeout_s = min(CONNECT_S, self.target.timeout_s)
            port = url.port or (443 if url.scheme == "https" else 80)
            plain = socket.create_connection((url.hostname or "", port), timeout=timeout_s)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if url.scheme == "https":
                plain = ssl.create_default_context().wrap_socket(plain, server_hostname=url.hostname)
            self._socket = plain
        return self._socket


def _usable(idle: socket.socket) -> bool:
    """Whether an idle connection is still open: servers close theirs (uvicorn's after 5 s)."""
    idle.settimeout(0)
    try:
        idle.recv(1)  # the end, or bytes that nobody has asked for
    except (BlockingIOError, ssl.SSLWantReadError):  # nothing to read, or only TLS's own messages
        return True
    except OSError:
        return False
    return False


def _exchange(connected: socket.socket, request: bytes, reader: ResponseReader, deadline: float) -> None:
    connected.settimeout(max(0.001, deadline - time.monotonic()))
    connected.sendall(request)
    while True:
        connected.settimeout(max(0.001, deadline - time.monotonic()))
        data = connected.recv(65_536)
        t_ns = now_ns()
        if not data:
            if reader.end(t_ns):
                return
            raise ConnectionError("the server closed the connection")
        if reader.feed(t_ns, data):
            return
