"""Many requests at once: keep-alive HTTP/1.1 connections on asyncio, each read stamped before all else.

Nagle's algorithm is off (asyncio's default), there is no proxy, no redirect, no retry, no
decompression and no timeout but the caller's: each of these would be inside the measured time.
"""

import asyncio
import ssl
from typing import cast
from urllib.parse import SplitResult

from kvlab.taxonomy import ErrorType
from kvlab.timing.clock import now_ns
from kvlab.timing.request import Failure, Measurement, Target, interpret
from kvlab.timing.response import ResponseReader, WireError


class Connection(asyncio.Protocol):
    """A connection that carries one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._reader: ResponseReader | None = None
        self._done: asyncio.Future[None] | None = None
        self.sent_ns = 0

    @classmethod
    async def open(cls, url: SplitResult) -> "Connection":
        """Connect, with TLS for https.

        Raises:
            OSError: Nothing accepts there, the name is unknown, or TLS failed (ssl.SSLError).
        """
        secure = url.scheme == "https"
        context = ssl.create_default_context() if secure else None
        port = url.port or (443 if secure else 80)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, url.hostname or "", port, ssl=context)
        return connection

    @property
    def usable(self) -> bool:
        """Whether the peer has not closed it and no response is under way."""
        return self._transport is not None and not self._transport.is_closing() and self._reader is None

    async def exchange(self, request: bytes, reader: ResponseReader) -> int:
        """Send a request, and read its response into ``reader`` until it is complete.

        Returns:
            The stamp taken just before the first byte was written, in nanoseconds.

        Raises:
            ConnectionError: The connection ended before the response did.
            WireError: The response is not HTTP.
        """
        if not self.usable or self._transport is None:
            raise ConnectionError("the connection is closed")
        self._reader = reader
        self._done = asyncio.get_running_loop().create_future()
        self.sent_ns = now_ns()
        self._transport.write(request)
        try:
            await self._done
        finally:
            self._reader = None
            if reader.done_ns is None or not reader.keep_alive:
                self.close()
        return self.sent_ns

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Stamp, then find out whether the response is complete."""
        t_ns = now_ns()
        if self._reader is None:
            self.close()  # bytes that nobody asked for: the connection is out of step
            return
        try:
            complete = self._reader.feed(t_ns, data)
        except WireError as error:
            self._finish(error)
            return
        if complete:
            self._finish(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer, or `close`, ended the connection."""
        if self._reader is not None:
            complete = self._reader.end(now_ns())
            self._finish(None if complete else ConnectionError("the server closed the connection"))

    def _finish(self, error: Exception | None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)


async def measure(target: Target, connection: Connection, request: bytes) -> Measurement:
    """Send one encoded request on an open connection and measure its streamed answer.

    Never raises for what a server or network can do: that is a `Failure` with partial stamps.
    """
    reader = ResponseReader()
    connection.sent_ns = now_ns()  # for the case that the request never gets out
    failure = None
    try:
        async with asyncio.timeout(target.timeout_s):
            await connection.exchange(request, reader)
    except TimeoutError:
        message = f"no complete answer within {target.timeout_s:g} s"
        failure = Failure(ErrorType.TIMEOUT, message, reader.status)
    except (OSError, WireError) as error:
        failure = Failure(ErrorType.ENGINE_ERROR, str(error), reader.status)
    return interpret(target, connection.sent_ns, reader, failure)
