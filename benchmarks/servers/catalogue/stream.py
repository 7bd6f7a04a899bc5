"""Streams of status 200: forms of events, of chunks, of usage, and errors inside."""

from __future__ import annotations

import json
from typing import Any

from .fault import (
    BODY,
    DONE,
    KEY,
    LAST,
    ROLE,
    SSE_HEAD,
    USAGE,
    USAGE_EVENT,
    WORDS,
    Fault,
    Step,
    answer,
    chunk,
    chunked,
    event,
)

E, R, L, N = "ENGINE_ERROR", "REFUSED_INPUT", "RATE_LIMITED", "EMPTY_OUTPUT"
TEXT = b"".join(WORDS)
MULTI = b'data: {"choices":[{"index":0,\ndata: "delta":{"content":"1234"},"finish_reason":"stop"}]}\n\n'


def _ok(name: str, body: bytes, says: str = "1234") -> Fault:
    return Fault(name, "ok", answer(body), says)


def _bad(name: str, want: str, body: bytes, says: str) -> Fault:
    return Fault(name, want, answer(body), says)


def _json(value: Any, kind: bytes = b"application/json") -> tuple[Step, ...]:
    raw = value if isinstance(value, bytes) else json.dumps(value, indent=1).encode()
    return (b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b" % (kind, len(raw), raw),)


def _usage(**changes: Any) -> bytes:
    return ROLE + TEXT + event({"choices": [], "usage": {**USAGE, **changes}}) + DONE


def _first(value: Any) -> bytes:
    """A chunk before a good stream."""
    return event(value) + BODY


_DOCUMENT = {"object": "chat.completion", "usage": USAGE,
             "choices": [{"index": 0, "message": {"role": "assistant", "content": "1234"}, "finish_reason": "stop"}]}  # fmt: skip
_TOO_LONG = "the request exceeds the available context size"
_LLAMA = {"code": 400, "message": _TOO_LONG, "type": "exceed_context_size_error"}
_USAGES: dict[str, dict[str, Any]] = {
    "negative": {"prompt_tokens": -5, "completion_tokens": -3}, "huge": {"prompt_tokens": 10**30},
    "fraction": {"prompt_tokens": 12.5}, "text": {"prompt_tokens": "nine"}, "true": {"prompt_tokens": True},
    "list": {"prompt_tokens": [1]}, "cached_beyond": {"prompt_tokens_details": {"cached_tokens": 99}},
    "cached_null": {"prompt_tokens_details": {"cached_tokens": None}}, "details_null": {"prompt_tokens_details": None},
    "details_list": {"prompt_tokens_details": [1]}, "zero": {"prompt_tokens": 0, "completion_tokens": 0},
    "63_bits": {"prompt_tokens": 2**63},
}  # fmt: skip
_ODD: dict[str, Any] = {
    "chunk_list": [1, 2], "chunk_number": 5, "chunk_null": b"null", "choices_text": {"choices": "x"},
    "choices_object": {"choices": {"0": 1}}, "choice_null": {"choices": [None]}, "delta_text": {"choices": [{"delta": "A"}]},
    "content_number": chunk({"content": 5}), "content_list_of_texts": chunk({"content": ["A"]}),
    "content_part_number": chunk({"content": [{"type": "text", "text": 5}]}),
    "finish_number": chunk({"content": "A"}, 7), "reasoning_object": chunk({"reasoning": {"a": 1}}),
}  # fmt: skip
_FINE: dict[str, Any] = {
    "choices_null": {"choices": None}, "choices_empty": {"choices": []}, "delta_null": chunk(None), "object_empty": {},
    "error_null": chunk({}, error=None), "error_empty": chunk({}, error={}), "usage_null": chunk({}, usage=None),
    "content_null": chunk({"role": "assistant", "content": None}), "finish_empty": chunk({}, ""),
    "azure_filter": {"choices": [], "model": "", "prompt_filter_results": [{"prompt_index": 0}]},
    "tool_calls_empty": chunk({"tool_calls": []}), "second_choice": {"choices": [{"index": 1, "delta": {"content": "other"}}]},
}  # fmt: skip

STREAM: tuple[Fault, ...] = (
    # forms of events
    _ok("line_ends_crlf", BODY.replace(b"\n", b"\r\n")),
    _ok("line_ends_cr", BODY.replace(b"\n", b"\r")),
    _ok("line_ends_mixed", BODY.replace(b"\n\n", b"\r\n\n")),
    Fault("line_ends_crlf_split", "ok", (SSE_HEAD, *(chunked(part + b"\r") + chunked(b"\n") for part in BODY.split(b"\n")), LAST), "1234"),
    _ok("no_space", BODY.replace(b"data: ", b"data:")),
    _ok("comments", b": ping\n\n" + BODY.replace(b"\n\n", b"\n\n: ping\n\n")),
    _ok("fields", BODY.replace(b"data: ", b"event: message\nid: 3\nretry: 10\ndata: ")),
    _ok("byte_order_mark", b"\xef\xbb\xbf" + BODY),
    _ok("data_on_two_lines", ROLE + MULTI + USAGE_EVENT + DONE),
    _ok("data_without_colon", b"data\n\n" + BODY),
    _ok("data_empty", b"data:\n\n" + BODY),
    _ok("no_done", ROLE + TEXT + USAGE_EVENT),
    _ok("no_last_blank_line", (ROLE + TEXT + USAGE_EVENT).rstrip(b"\n")),
    _ok("more_after_done", BODY + event(chunk({"content": " extra"})) + b"data: junk\n\n"),
    _ok("no_field", BODY + b"no field at all\n\n"),
    _ok("character_in_pieces", ROLE + event(chunk({"content": "é😀漢 1234"}, "stop")) + DONE, "é😀漢"),
    Fault("character_split", "ok", (SSE_HEAD + b"".join(chunked(bytes([byte])) for byte in ROLE + event(chunk({"content": "é😀漢"}, "stop")) + DONE) + LAST,), "é😀漢"),
    _ok("not_utf8", ROLE + event(b'{"choices":[{"index":0,"delta":{"content":"\xff\xfe1234"},"finish_reason":"stop"}]}') + DONE),
    _ok("half_character", ROLE + event(b'{"choices":[{"delta":{"content":"\\ud83d1234"},"finish_reason":"stop"}]}') + DONE),
    _ok("nul_and_escapes", ROLE + event(chunk({"content": "a\x00b\x1b]0;pwn\x07 1234"}, "stop")) + DONE),
    _ok("answer_400_KB", ROLE + event(chunk({"content": "B" * 400_000 + "1234"}, "stop")) + DONE),
    _ok("usage_missing", ROLE + TEXT + DONE),
    _ok("usage_in_every_chunk", ROLE + TEXT.replace(b'"model"', b'"usage": {"prompt_tokens": 9, "completion_tokens": 4}, "model"') + DONE),
    _ok("usage_twice", ROLE + TEXT + USAGE_EVENT + USAGE_EVENT + DONE),
    _ok("usage_is_text", ROLE + TEXT + event({"choices": [], "usage": "lots"}) + DONE),
    *(_ok(f"usage_{name}", _usage(**changes)) for name, changes in _USAGES.items()),
    *(_ok(f"before_{name}", _first(value)) for name, value in _FINE.items()),
    # what is a token
    _ok("content_parts", ROLE + event(chunk({"content": [{"type": "text", "text": "12"}, {"type": "text", "text": "34"}]}, "stop")) + DONE),
    _ok("content_thinking_parts", ROLE + event(chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]})) + TEXT + DONE),
    _ok("reasoning", ROLE + event(chunk({"reasoning_content": "Hm"})) * 3 + TEXT + USAGE_EVENT + DONE),
    _ok("reasoning_only", ROLE + event(chunk({"reasoning": "Hm"})) * 3 + event(chunk({}, "length")) + DONE, ""),
    _ok("refusal", ROLE + event(chunk({"refusal": "I can"})) + event(chunk({"refusal": "not"}, "stop")) + DONE, "I cannot"),
    _ok("tool_call", ROLE + event(chunk({"tool_calls": [{"index": 0, "function": {"name": "f"}}]})) + event(chunk({}, "tool_calls")) + DONE, ""),
    _ok("function_call", ROLE + event(chunk({"function_call": {"name": "f"}})) + event(chunk({}, "function_call")) + DONE, ""),
    _ok("finish_unknown", ROLE + event(chunk({"content": "1234"}, "banana")) + DONE),
    _ok("finish_capitals", ROLE + event(chunk({"content": "1234"}, "STOP")) + DONE),
    _ok("model_differs", BODY.replace(b'"model": "m"', b'"model": "other"')),
    _bad("role_only", N, ROLE + event(chunk({}, "stop")) + USAGE_EVENT + DONE, "no token"),
    _bad("reasoning_swallowed", N, ROLE + event(chunk({}, "length")) + USAGE_EVENT + DONE, "no token"),
    _bad("done_only", N, DONE, "no token"),
    # what is no answer
    _bad("empty", E, b"", "empty"),
    _bad("comments_only", E, b": ping\n\n" * 5, "no event stream"),
    _bad("usage_only", E, USAGE_EVENT, "finish reason"),
    _bad("unfinished", E, ROLE + WORDS[0], "finish reason"),
    _bad("finish_abort", E, ROLE + WORDS[0] + event(chunk({}, "abort")) + DONE, "abort"),
    _bad("finish_error", E, ROLE + WORDS[0] + event(chunk({}, "error")) + DONE, "error"),
    _bad("finish_resource", E, ROLE + WORDS[0] + event(chunk({}, "insufficient_system_resource")) + DONE, "insufficient"),
    _bad("not_json", E, ROLE + event(b'{"choices":[{') + TEXT + DONE, "not JSON"),
    _bad("not_json_nan", E, ROLE + event(b'{"choices":[],"x":NaN}') + TEXT + DONE, "not JSON"),
    _bad("not_json_deep", E, event(b"[" * 100_000 + b"]" * 100_000) + BODY, "not JSON"),
    *(_bad(f"malformed_{name}", E, _first(value), "malformed") for name, value in _ODD.items()),
    # errors inside
    _bad("error_in_stream", E, ROLE + WORDS[0] + event({"error": {"message": "CUDA out of memory", "code": 500}}) + DONE, "CUDA out of memory"),
    _bad("error_in_stream_400", R, event({"error": {"message": "too long", "code": 400}}) + DONE, "too long"),
    _bad("error_in_stream_429", L, event({"error": {"message": "slow down", "code": "429"}}) + DONE, "slow down"),
    _bad("error_in_stream_by_type", R, event({"error": {"message": "no", "type": "invalid_request_error"}}) + DONE, "no"),
    _bad("error_in_stream_text", E, event({"error": "plain words"}) + DONE, "plain words"),
    _bad("error_in_stream_list", E, event({"error": ["a", "b"]}) + DONE, "a"),
    _bad("error_object", R, event({"object": "error", "message": "vLLM's old form", "code": 400}) + DONE, "old form"),
    _bad("error_event", E, ROLE + b"event: error\ndata: {\"message\": \"engine died\", \"code\": 500}\n\n", "engine died"),
    _bad("error_event_nested", R, b"event: error\ndata: {\"error\": {\"message\": \"no such\", \"code\": 404}}\n\n", "no such"),
    _bad("error_event_text", E, ROLE + b"event: error\ndata: upstream timed out\n\n" + DONE, "upstream timed out"),
    _bad("error_line", R, b"error: " + json.dumps(_LLAMA).encode() + b"\n\n", _TOO_LONG),
    _bad("error_bare_line", R, ROLE + json.dumps({"error": _LLAMA}).encode() + b"\n\n", _TOO_LONG),
    Fault("error_document", R, _json({"error": _LLAMA}), _TOO_LONG),
    Fault("error_document_as_stream", R, _json({"error": _LLAMA}, b"text/event-stream"), _TOO_LONG),
    Fault("error_document_text", E, _json({"error": "boom"}), "boom"),
    Fault("document", "ok", _json(_DOCUMENT), "1234", untimed=True),
    Fault("document_odd", E, _json({"hello": 1}), "no event stream"),
    Fault("document_list", E, _json([1, 2]), "no event stream"),
    Fault("html", E, _json(b"<html>Log in</html>", b"text/html"), "Log in"),
    Fault("text", E, _json(b"It works!", b"text/plain"), "It works!"),
    # keys
    _bad("echo_error", E, event({"error": {"message": "header " + KEY.decode()}}) + DONE, "header"),
    _bad("echo_not_json", E, ROLE + event(b"{" * 55 + KEY) + BODY, "not JSON"),
    _ok("echo_text", ROLE + event(chunk({"content": "your header was " + KEY.decode()})) + event(chunk({"content": "x"}, "stop")) + DONE, "your header"),
    _ok("echo_usage", ROLE + TEXT + event({"choices": [], "usage": {**USAGE, "debug": {"key": KEY.decode()}}}) + DONE),
    _ok("echo_text_in_pieces", ROLE + event(chunk({"content": "key " + KEY.decode()[:3]})) + event(chunk({"content": KEY.decode()[3:] + " 1234"}, "stop")) + DONE),
    # time
    Fault("buffered", "ok", (0.3, SSE_HEAD + chunked(ROLE + WORDS[0] * 4 + b"".join(WORDS[1:]) + DONE) + LAST), "1234", untimed=True),
)  # fmt: skip
