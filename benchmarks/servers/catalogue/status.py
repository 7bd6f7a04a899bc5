"""Answers that are no 200: every form in which servers word an error."""

from __future__ import annotations

import gzip
import json
from typing import Any

from .fault import CLOSE, HANG, KEY, Fault

E, R, L, T, U = "ENGINE_ERROR", "REFUSED_INPUT", "RATE_LIMITED", "TIMEOUT", "UNKNOWN_FAILURE"


def _answer(status: int, body: Any, more: bytes = b"") -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status, more, len(raw), raw,
    )  # fmt: skip


def _says(status: int, want: str) -> Fault:
    words = f"the words of {status}"
    return Fault(f"status_{status}", want, (_answer(status, {"error": {"message": words}}),), words)


_LABELS = {
    300: U, 302: U, 307: U, 308: U, 400: R, 401: R, 402: R, 403: R, 404: R, 405: R, 408: T, 409: R, 411: R, 413: R, 418: R,
    422: R, 429: L, 451: R, 500: E, 501: E, 502: E, 503: E, 504: T, 505: E, 507: E, 529: E, 599: E, 600: E, 999: E,
}  # fmt: skip
_LONG = b"=HYPERLINK(1)\x00\x1b[31m red \xe2\x80\xae turned"

STATUS: tuple[Fault, ...] = (
    *(_says(status, want) for status, want in _LABELS.items()),
    Fault("content_204", U, (b"HTTP/1.1 204 No Content\r\n\r\n",), "empty"),
    Fault("content_204_chunked", U, (b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",), "empty"),
    Fault("content_304", U, (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 50\r\n\r\n",), "empty"),
    Fault("content_205", U, (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n",), "empty"),
    Fault("error_text", R, (_answer(400, {"error": "just a text"}),), "just a text"),
    Fault("error_null", R, (_answer(400, {"error": None, "message": "beside"}),), "beside"),
    Fault("error_list", R, (_answer(400, [1, 2, 3]),), "[1, 2, 3]"),
    Fault("error_number", R, (_answer(400, 5),), "5"),
    Fault("error_detail_text", R, (_answer(422, {"detail": "field required"}),), "field required"),
    Fault("error_detail_list", R, (_answer(422, {"detail": [{"msg": "field required"}]}),), "field required"),
    Fault("error_nested", R, (_answer(400, {"error": {"error": {"message": "deep"}}}),), "deep"),
    Fault("error_message_object", R, (_answer(400, {"error": {"message": {"text": "inside"}}}),), "inside"),
    Fault("error_vllm_old", R, (_answer(400, {"object": "error", "message": "too long", "code": 400}),), "too long"),
    Fault("error_deep", R, (_answer(400, b"[" * 200_000),), "[[["),
    Fault("error_not_utf8", E, (_answer(500, bytes(range(128, 256))),), "\ufffd"),
    Fault("error_half_character", E, (_answer(500, b'{"error":{"message":"a\\ud800b"}}'),), "a\ufffdb"),
    Fault("error_nan", E, (_answer(500, b'{"error":NaN}'),), "NaN"),
    Fault("error_controls", E, (_answer(500, _LONG),), "HYPERLINK"),
    Fault("error_1_MB", E, (_answer(500, {"error": {"message": "y" * 10**6}}),), "yyy"),
    Fault("error_html", E, (_answer(502, b"<html><h1>502 Bad Gateway</h1></html>"),), "Bad Gateway"),
    Fault("error_empty", E, (_answer(503, b""),), "empty"),
    Fault("error_compressed", E, (_answer(500, gzip.compress(b'{"error":"zipped words"}'), b"Content-Encoding: gzip\r\n"),),
          "zipped words"),
    Fault("error_zip_bomb", E, (_answer(500, gzip.compress(b"a" * 2**24), b"Content-Encoding: gzip\r\n"),), "aaa"),
    Fault("error_zip_broken", E, (_answer(500, b"no zip", b"Content-Encoding: gzip\r\n"),), "no zip"),
    Fault("error_chunked", E, (b"HTTP/1.1 500 X\r\nTransfer-Encoding: chunked\r\n\r\n6\r\n\"oops\"\r\n0\r\n\r\n",), "oops"),
    Fault("error_until_close", E, (b"HTTP/1.1 500 X\r\n\r\nlast words", CLOSE), "last words"),
    Fault("error_cut_off", E, (_answer(500, b'{"error":"wor')[:-1], CLOSE), "closed the connection"),
    Fault("error_hangs", T, (b"HTTP/1.1 500 X\r\nContent-Length: 50\r\n\r\nwords so far", HANG), "words so far"),
    Fault("error_close", R, (_answer(400, {"error": "x y z"}, b"Connection: close\r\n"), CLOSE), "x y z"),
    Fault("echo_401", R, (_answer(401, {"error": {"message": "Incorrect API key provided: " + KEY.decode()}}),), "Incorrect"),
    Fault("echo_padded", E, (_answer(500, {"error": {"message": "x" * 480 + " Bearer " + KEY.decode()}}),), "xxx"),
    Fault("echo_html", E, (_answer(502, b"<pre>Authorization: Bearer " + KEY + b"</pre>"),), "pre"),
    Fault("retry_after_seconds", L, (_answer(429, {"error": "slow"}, b"Retry-After: 7\r\n"),), "slow"),
    Fault("retry_after_date", L, (_answer(429, {"error": "slow"}, b"Date: Tue, 01 Jan 2030 00:00:00 GMT\r\nRetry-After: Tue, 01 Jan 2030 00:00:09 GMT\r\n"),), "slow"),
    Fault("retry_after_odd", L, (_answer(429, {"error": "slow"}, b"Retry-After: soon\r\n"),), "slow"),
    Fault("retry_after_negative", L, (_answer(429, {"error": "slow"}, b"Retry-After: -5\r\n"),), "slow"),
    Fault("retry_after_huge", L, (_answer(429, {"error": "slow"}, b"Retry-After: 99999999999999999999\r\n"),), "slow"),
)  # fmt: skip
