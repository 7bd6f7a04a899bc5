"""The measuring client for one request at a time: a plain socket, read as soon as something is there.

It lives underneath the openai SDK: `make bench` shows what the SDK's own stream adds. With nothing
else to do while it waits, a blocking read is the shortest way from the arrival of a byte to its
stamp; an event loop's is about 0.05 ms longer. There is no proxy, no redirect, no retry and no
decompression: each would be inside the measured time. Retries belong to the caller.

One thing is sent again: a request on a kept connection that the server had closed already
(`kvlab.timing.route.is_stale`). Its clock starts anew, and it is counted.
"""

import socket
import time
from collections.abc import Mapping
from typing import Any, Self

from kvlab.taxonomy import ErrorType
from kvlab.timing.clock import BEAT_S, Watch, now_ns
from kvlab.timing.request import Failure, Measurement, Target, Transfer, interpret
from kvlab.timing.response import ResponseReader, WireError
from kvlab.timing.route import BLOCKED, Route, is_stale, still_open

CONNECT_S = 30.0


class Client:
    """One keep-alive connection, opened before the clock starts and reused."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._socket: socket.socket | None = None
        self._route: Route | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def measure(self, path: str, body: Mapping[str, Any], request_id: str) -> Measurement:
        """POST a streaming request and measure its answer.

        Never raises for what a server or a network can do: that is a `Failure` with partial stamps.

        Raises:
            InputError: The request cannot be sent as it is (`Target.encode`).
        """
        request = self.target.encode(path, body, {"X-Request-Id": request_id})
        reused = self._keep()
        reader, transfer = self._once(request)
        if reused and is_stale(reader, transfer.failure, now_ns() - transfer.sent_ns):
            reader, transfer = self._once(request, reconnects=1)
        return interpret(self.target, reader, transfer)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _keep(self) -> bool:
        """Return whether there is a connection that can be used; one that the server has dropped is closed."""
        if self._socket is not None:
            self._socket.settimeout(0)
            if not still_open(self._socket):
                self.close()
        return self._socket is not None

    def _once(self, request: bytes, reconnects: int = 0) -> tuple[ResponseReader, Transfer]:
        reader = ResponseReader(self.target.max_bytes)
        watch = Watch()
        try:
            connected = self._connected()
        except OSError as error:
            nowhere = Failure(ErrorType.ENGINE_ERROR, f"no connection: {error}")
            return reader, Transfer(now_ns(), nowhere, reconnects)
        failure: Failure | None = None
        watch.start()
        sent_ns = now_ns()
        try:
            _exchange(connected, request, reader, watch, time.monotonic() + self.target.timeout_s)
        except TimeoutError:
            message = f"no complete answer within {self.target.timeout_s:g} s"
            failure = Failure(ErrorType.TIMEOUT, message, reader.status)
        except (OSError, WireError) as error:
            failure = Failure(ErrorType.ENGINE_ERROR, str(error), reader.status)
        finally:
            reader.close()
            if reader.done_ns is None or not reader.keep_alive:  # also on Ctrl-C: it is out of step
                self.close()
        watch.stop()
        return reader, Transfer(sent_ns, failure, reconnects, watch.stalled_ns / 1e6)

    def _connected(self) -> socket.socket:
        """Return an open connection: the one that is there, or a new one."""
        if self._socket is None:
            if self._route is None:
                self._route = Route(self.target.url, look=False)
            self._socket = self._route.open(min(CONNECT_S, self.target.timeout_s))
        return self._socket


def _exchange(
    connected: socket.socket, request: bytes, reader: ResponseReader, watch: Watch, deadline: float
) -> None:
    """Send a request and read its response; every wait is short, so that a stall of this process shows."""
    unsent, broken = memoryview(request), None
    while True:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        connected.settimeout(min(BEAT_S, left_s))
        try:
            if unsent:
                unsent = unsent[connected.send(unsent) :]
                watch.beat()
                continue
            data = connected.recv(65_536)
            t_ns = now_ns()
        except (TimeoutError, *BLOCKED):
            watch.beat()
            if not unsent or not (data := _early(connected)):
                continue
            t_ns = now_ns()
        except ConnectionError as error:
            if not unsent:
                raise broken or error from None
            unsent, broken = memoryview(b""), error  # it may have said why before it hung up
            continue
        watch.beat()
        if not data:
            if reader.end(t_ns):
                return
            raise broken or ConnectionError(reader.cut_off())
        if reader.feed(t_ns, data):
            reader.keep_alive = reader.keep_alive and not unsent and broken is None
            return


def _early(connected: socket.socket) -> bytes:
    """Return what a server says before it has read the whole request: a refusal, perhaps its last word."""
    connected.settimeout(0)
    try:
        return connected.recv(65_536)
    except BLOCKED:
        return b""
