"""Runs the fake server in a process of its own, for tests and benchmarks.

with FakeServer(itl_ms=2, usage="no_details") as server:
    httpx.get(f"{server.base_url}/models")
    server.control(evict="all")
    server.truth()
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_REPOSITORY = Path(__file__).resolve().parents[2]


class FakeServer:
    """The server as a context manager; keyword arguments are fields of `options.Options`."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes]
        self.port = 0

    def at(self, port: int) -> Self:
        """Serve at this port instead of a free one, so that a restart is at the same place."""
        self.port = port
        return self

    def _command(self) -> list[str]:
        command = [
            sys.executable,
            "-m",
            "benchmarks.servers.openai_server",
            "--port",
            str(self.port),
            "--lifeline",
        ]
        return [*command, "--options", json.dumps(self._options)]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command(), cwd=_REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fake server did not start (exit code {self._process.wait()})")
        self.port = json.loads(line)["port"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    @property
    def root_url(self) -> str:
        """Where /health and /metrics are."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """What OpenAI clients call the base URL."""
        return f"{self.root_url}/v1"

    def truth(self) -> list[dict[str, Any]]:
        """One record for each generation request so far (see truth.Truth)."""
        records: list[dict[str, Any]] = self._call("GET", "/_truth")
        return records

    def clear_truth(self) -> None:
        """Forgets the records; the cache and the counters stay."""
        self._call("POST", "/_truth/clear")

    def stats(self) -> dict[str, Any]:
        """Counters, cache size and options."""
        stats: dict[str, Any] = self._call("GET", "/_stats")
        return stats

    def control(self, **changes: Any) -> dict[str, Any]:
        """Changes options; `evict="all"`, `evict=<blocks to keep>` and `warm=[prompts]` act at once."""
        answer: dict[str, Any] = self._call("POST", "/_control", changes)
        return answer

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, json.dumps(body or {}), {"Connection": "close"})
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(f"{path}: {answer['error']['message']}")
        return answer
