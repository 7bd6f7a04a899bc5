"""A server's own pages, fetched within bounds: so many bytes, so much time, whatever stands on them.

Nothing here raises for what a server can answer. A page that is cut, late, or none says why, and its
JSON is ``None`` where it is not JSON: HTML for every path, a bare list and ``null`` are all in use.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from kvlab.timing.response import retry_after_s

MAX_BYTES = 8 * 2**20
PAGE_S = 15.0
#: How long a page may ask for patience (429, 503) before its answer stands.
PATIENCE_S = 45.0
_BUSY = (429, 503)
_SAID = 20_000


@dataclass(frozen=True)
class Page:
    """What came of asking for one page.

    Attributes:
        status: The HTTP status; ``None``: there was no answer.
        text: The body, as text; empty without one.
        why: What is wrong with it, in a few words; ``None``: it came whole.
    """

    status: int | None = None
    text: str = ""
    why: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it came whole, with HTTP 200."""
        return self.status == 200 and self.why is None

    def json(self) -> Any:  # noqa: ANN401 - JSON
        """Return the body as JSON; ``None`` where it is none."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None

    def object(self) -> dict[str, Any]:
        """Return the JSON object of a good answer; empty for anything else."""
        content = self.json() if self.ok else None
        return content if isinstance(content, dict) else {}

    def message(self) -> str:
        """Return what the server said, in one line: its error's message, or the body.

        It is not cut: a server may echo a key, and a key that is cut cannot be found any more.
        """
        if self.why is not None:
            return self.why
        return error_message(self.json(), self.text)


def error_message(content: Any, text: str) -> str:  # noqa: ANN401 - JSON
    """Return the message of an error in any of the usual shapes, on one line."""
    error = content.get("error", content) if isinstance(content, dict) else content
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail") or error
    if isinstance(content, dict) and "error" not in content and content.get("detail"):
        error = content["detail"]
    found = text if error is None else error if isinstance(error, str) else json.dumps(error, default=str)
    # Far more than is ever shown, so that a secret at this edge is not shown either.
    return " ".join(found[:_SAID].split()) or "an empty answer"


def fetch(
    http: httpx.Client,
    url: str,
    *,
    body: Any = None,  # noqa: ANN401 - JSON
    params: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
    timeout_s: float = PAGE_S,
    patience_s: float = PATIENCE_S,
    sleep: Callable[[float], None] = time.sleep,
) -> Page:
    """GET a page, or POST to it where there is a ``body``.

    A connection that the server has dropped meanwhile is opened anew, once. Where the server asks for
    patience (429, 503) the page is asked for again, after its ``Retry-After``, for ``patience_s`` in all.

    Args:
        url: Of the page.
        body: Sent as JSON.
        params: Of the query.
        patience_s: How long to go on asking a busy server, in seconds.
        sleep: Waits.
        http: Redirects are not followed: what is asked must be the server that is measured.
        max_bytes: So much is read of a body, after decompression.
        timeout_s: How long one answer may take, from the request to its last byte.
    """
    end = time.monotonic() + patience_s
    stale, pause = 1, 0.5
    while True:
        page, retry_s = _once(http, url, body, params, max_bytes, timeout_s)
        if page.status is None and page.why == _DROPPED and stale:
            stale -= 1
            continue
        wait = retry_s if retry_s is not None else pause
        if page.status not in _BUSY or time.monotonic() + wait > end:
            return page
        sleep(wait)
        pause = min(2 * pause, 8.0)


_DROPPED = "the server closed the connection without an answer"


def _once(
    http: httpx.Client,
    url: str,
    body: Any,  # noqa: ANN401 - JSON
    params: Mapping[str, Any] | None,
    max_bytes: int,
    timeout_s: float,
) -> tuple[Page, float | None]:
    deadline = time.monotonic() + timeout_s
    data = bytearray()
    try:
        request = http.build_request(
            "GET" if body is None else "POST", url, json=body, params=params, timeout=timeout_s
        )
        request.headers["Accept-Encoding"] = "identity"  # a small answer may be a large page
        answer = http.send(request, stream=True)
        try:
            for piece in answer.iter_bytes():  # as they arrive: a chunk size would wait for more
                data += piece
                if len(data) > max_bytes:
                    return Page(answer.status_code, "", f"its answer is above {max_bytes:,} bytes"), None
                if time.monotonic() > deadline:
                    return Page(answer.status_code, "", f"no complete answer within {timeout_s:g} s"), None
        finally:
            answer.close()
    except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
        dropped = not data and not isinstance(error, httpx.LocalProtocolError)
        return Page(None, "", _DROPPED if dropped else f"the answer broke off ({_words(error)})"), None
    except httpx.TimeoutException:
        return Page(None, "", f"no answer within {timeout_s:g} s"), None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
        return Page(None, "", _words(error)), None
    text = bytes(data).decode("utf-8", errors="replace")
    return Page(answer.status_code, text), retry_after_s(answer.headers.get("Retry-After"))


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
