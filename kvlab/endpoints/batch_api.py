"""The calls of OpenAI's batch API: ``/v1/files`` and ``/v1/batches``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx
import stamina

from kvlab.taxonomy import RETRYABLE, from_http_status
from kvlab.timing.stream import parse

T = TypeVar("T")
_ABSENT = {404, 405, 501}


@dataclass
class Batch:
    """A batch job on the server, and the calls that deal with it.

    What only asks is asked again while the server is in trouble, for up to ``patience_s`` at a time: a
    job may take a day, and its server may be restarted meanwhile. What makes something is asked once.

    All raise httpx.HTTPError for what stays wrong, and ValueError for an answer that is no JSON.
    """

    http: httpx.Client
    base_url: str
    patience_s: float

    def absent(self) -> int | None:
        """Return the HTTP status by which the server says that it has no batch API; ``None``: it has one."""

        def ask() -> httpx.Response:
            answer = self.http.get(f"{self.base_url}/batches", params={"limit": 1})
            return answer if answer.status_code in _ABSENT else answer.raise_for_status()

        status = self._patiently(ask).status_code
        return status if status in _ABSENT else None

    def create(self, lines: Iterator[str]) -> str:
        """Upload requests and start them. Returns the batch's id."""
        data = "".join(lines).encode()
        files = {"file": ("requests.jsonl", data, "application/jsonl")}
        uploaded = self.http.post(
            f"{self.base_url}/files", data={"purpose": "batch"}, files=files, timeout=600
        )
        made = self.http.post(
            f"{self.base_url}/batches",
            json={
                "input_file_id": _field(uploaded, "id"),
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
        return str(_field(made, "id"))

    def look(self, batch_id: str) -> dict[str, Any]:
        """Return how it stands; its ``status`` is always there."""

        def ask() -> dict[str, Any]:
            answer = self.http.get(f"{self.base_url}/batches/{batch_id}")
            _field(answer, "status")
            found: dict[str, Any] = answer.json()
            return found

        return self._patiently(ask)

    def lines(self, file_id: str | None) -> Iterator[Any]:
        """Yield the lines of one of its files, each a JSON value; ``None`` for one that is none."""
        if file_id is None:
            return
        with self.http.stream("GET", f"{self.base_url}/files/{file_id}/content", timeout=600) as answer:
            answer.raise_for_status()
            for line in filter(str.strip, answer.iter_lines()):
                try:
                    yield parse(line)
                except (ValueError, RecursionError):
                    yield None

    def _patiently(self, ask: Callable[[], T]) -> T:
        return stamina.retry(on=_passes, attempts=None, timeout=self.patience_s, wait_max=30.0)(ask)()


def _field(answer: httpx.Response, name: str) -> Any:  # noqa: ANN401 - JSON
    content = answer.raise_for_status().json()
    if not isinstance(content, dict) or name not in content:
        raise ValueError(f"{answer.request.url.path} answers without {name!r}")
    return content[name]


def _passes(error: Exception) -> bool:
    """Whether it may be mended by waiting: no connection, a busy or failing server, half an answer."""
    if isinstance(error, httpx.HTTPStatusError):
        return from_http_status(error.response.status_code) in RETRYABLE
    return isinstance(error, httpx.TransportError | ValueError)
