"""The calls of OpenAI's batch API: ``/v1/files`` and ``/v1/batches``."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx
import stamina

from kvlab.bounded import json_value
from kvlab.endpoints.pages import error_message
from kvlab.redact import Redactor
from kvlab.taxonomy import RETRYABLE, from_http_status
from kvlab.timing.stream import parse

T = TypeVar("T")
_ABSENT = {404, 405, 501}
#: OpenAI takes no more requests in one file, and no larger file than 200 MB.
MAX_LINES, MAX_BYTES = 50_000, 190 * 10**6
#: Whether there is a batch API at all is worth no longer wait: nothing has been sent yet.
ABSENT_PATIENCE_S = 10.0
#: Statuses, in small letters, in which a batch stays.
OVER = frozenset({"completed", "failed", "expired", "cancelled", "canceled"})
# An answer's line may be long (a long generation, log-probabilities), and is no longer than this.
_LINE_BYTES = 64 * 2**20


@dataclass
class Batch:
    """A batch job on the server, and the calls that deal with it.

    What only asks is asked again while the server is in trouble, for up to ``patience_s`` at a time: a
    job may take a day, and its server may be restarted meanwhile. What makes something is asked once.

    All raise httpx.HTTPError for what stays wrong, and ValueError for an answer that is not JSON. What
    the server says, here or in an error, comes without secrets: a status, a header or a line may echo the key.

    Attributes:
        redact: Takes secrets out, before anything is cut, stored or shown.
    """

    http: httpx.Client
    base_url: str
    patience_s: float
    redact: Redactor = field(default_factory=lambda: Redactor(()), repr=False)

    def absent(self) -> str | None:
        """Return by what the server says that it has no batch API; ``None``: it has one.

        A gateway may answer any path with its web page: what is not JSON is no batch API.
        """

        def ask() -> httpx.Response:
            answer = self.http.get(f"{self.base_url}/batches", params={"limit": 1})
            return answer if answer.status_code in _ABSENT else self._well(answer)

        answer = self._patiently(ask, min(self.patience_s, ABSENT_PATIENCE_S))
        if answer.status_code in _ABSENT:
            return f"HTTP {answer.status_code}"
        try:
            content = json_value(answer.content)
        except ValueError:
            return f"{self.redact(answer.headers.get('content-type', 'something'))[:200]}, and no JSON"
        return None if isinstance(content, dict | list) else "JSON that is not a list of batches"

    def create(self, lines: Iterable[str]) -> str:
        """Upload requests, at most `MAX_LINES`, and start them. Returns the batch's id.

        Raises:
            ValueError: The server refuses them, in its own words; or there are too many for one file.
        """
        data = "".join(lines).encode()
        if len(data) > MAX_BYTES or data.count(b"\n") > MAX_LINES:
            raise ValueError(f"{len(data):,} bytes are too many for one batch file; ask for fewer requests")
        files = {"file": ("requests.jsonl", data, "application/jsonl")}
        uploaded = self.http.post(
            f"{self.base_url}/files", data={"purpose": "batch"}, files=files, timeout=600
        )
        made = self.http.post(
            f"{self.base_url}/batches",
            json={
                "input_file_id": self._field(uploaded, "id"),
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
        name = str(self._field(made, "id"))
        if self.redact(name) != name:
            raise ValueError(
                f"{self._path(made)} gives the batch an id that repeats a secret; it is not stored"
            )
        return name

    def look(self, batch_id: str) -> dict[str, Any]:
        """Return how it stands; its ``status`` is always there, in small letters.

        Some servers write statuses in capitals.
        """

        def ask() -> dict[str, Any]:
            answer = self.http.get(f"{self.base_url}/batches/{batch_id}")
            status = self._field(answer, "status")
            found: dict[str, Any] = json_value(answer.content)
            ids = {name: found[name] for name in ("output_file_id", "error_file_id") if name in found}
            shown: dict[str, Any] = self.redact.value(found)
            return shown | ids | {"status": self.redact(str(status).strip()).lower()}

        return self._patiently(ask, self.patience_s)

    def lines(self, file_id: str | None) -> Iterator[Any]:
        """Yield the lines of one of its files, each a JSON value; ``None`` for one that is none."""
        if file_id is None:
            return
        with self.http.stream("GET", f"{self.base_url}/files/{file_id}/content", timeout=600) as answer:
            if answer.is_error:
                answer.read()
            self._well(answer)
            for line in _lines(answer):
                try:
                    yield self.redact.value(parse(line))
                except (ValueError, RecursionError):
                    yield None

    def _field(self, answer: httpx.Response, name: str) -> Any:  # noqa: ANN401 - JSON
        content = json_value(self._well(answer).content)
        if isinstance(content, dict) and content.get("error") and name not in content:
            raise ValueError(f"{self._path(answer)} answers: {self.redact(_message(content['error']))}")
        if not isinstance(content, dict) or name not in content:
            raise ValueError(f"{self._path(answer)} answers without {name!r}")
        return content[name]

    def _well(self, answer: httpx.Response) -> httpx.Response:
        """Return a good answer.

        Raises:
            httpx.HTTPStatusError: It is none; what the server said stands in the message.
        """
        try:
            return answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            try:
                message = error_message(json_value(answer.content), answer.text)
            except ValueError:
                message = " ".join(answer.text.split())
            message = self.redact(message) or "nothing"
            text = f"{self._path(answer)} answers HTTP {answer.status_code}: {message}"
            raise httpx.HTTPStatusError(text, request=error.request, response=answer) from None

    def _path(self, answer: httpx.Response) -> str:
        return self.redact(answer.request.url.path)

    def _patiently(self, ask: Callable[[], T], patience_s: float) -> T:
        return stamina.retry(on=_passes, attempts=None, timeout=patience_s, wait_max=30.0)(ask)()


def message_of(batch: Mapping[str, Any]) -> str:
    """Return what a server says of a batch that did not complete, in its own words; empty: nothing."""
    errors = batch.get("errors")
    if isinstance(errors, dict):
        errors = errors.get("data") or errors
    listed = errors if isinstance(errors, list) else [errors]
    found = [_message(each) for each in (*listed, batch.get("error"), batch.get("failure_reason")) if each]
    return " ".join("; ".join(filter(None, found)).split())


def _message(error: Any) -> str:  # noqa: ANN401 - JSON
    if isinstance(error, dict):
        return str(error.get("message") or error.get("code") or error)
    return str(error)


def _lines(answer: httpx.Response) -> Iterator[str]:
    """Yield the lines of a file; one that is longer than any answer comes cut, and so is not JSON."""
    rest = b""
    for piece in answer.iter_bytes():
        *whole, rest = (rest + piece).split(b"\n")
        yield from (text for line in whole if (text := line.decode("utf-8", "replace").strip()))
        if len(rest) > _LINE_BYTES:
            rest = rest[:80]
    if text := rest.decode("utf-8", "replace").strip():
        yield text


def _passes(error: Exception) -> bool:
    """Whether waiting may help: no connection, a busy or failing server, half an answer."""
    if isinstance(error, httpx.HTTPStatusError):
        return from_http_status(error.response.status_code) in RETRYABLE
    return isinstance(error, httpx.TransportError | ValueError)
