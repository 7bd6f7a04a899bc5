"""The JSON that goes over the wire, in the shapes of vLLM 0.32 and, where asked, of other servers."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from .http import to_json
from .options import Options
from .tokenizer import WORDS

STARTED_S = int(time.time())
OWNERS = {"vllm": "vllm", "llamacpp": "llamacpp", "ollama": "library", "other": "system"}
SERVER_NAMES = {"vllm": "uvicorn", "llamacpp": "llama.cpp", "ollama": "", "other": "fake"}
FINGERPRINT = "vllm-0.32.0-fa4e5e2f"
_REASONS = {
    400: "BadRequestError",
    401: "invalid_request_error",
    404: "NotFoundError",
    429: "rate_limit_error",
}

# The pieces of generated text as JSON string contents: (first of a message, any later one).
PIECES = [(word, " " + word) for word in WORDS]
_PIECES_JSON = [tuple(json.dumps(p, ensure_ascii=False) for p in pair) for pair in PIECES]
DONE = b"data: [DONE]\n\n"


def error(status: int, message: str, param: str | None = None, kind: str | None = None) -> dict[str, Any]:
    """An error body."""
    kind = kind or _REASONS.get(status, "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": param, "code": status}}


@dataclass(frozen=True)
class Counts:
    """The tokens of one request; `cached` is the truth."""

    prompt: int
    cached: int
    generated: int
    created_cache: int
    kept: int | None = None  # entries that the KV cache kept of the prompt


def usage(counts: Counts, options: Options, *, stream: bool) -> dict[str, Any] | None:
    """The usage that the server reports, lies included; vLLM leaves nulls out of a stream only."""
    if options.usage == "none":
        return None
    details: dict[str, Any] | None = None
    if options.usage == "full":
        details = {"cached_tokens": reported_cached(counts, options)}
        created = counts.created_cache or None
        if not stream:
            details |= {"created_cache_tokens": created, "multimodal_tokens": None}
        elif created:
            details["created_cache_tokens"] = created
    told = {
        "prompt_tokens": counts.prompt,
        "total_tokens": counts.prompt + counts.generated,
        "completion_tokens": counts.generated,
    }
    if details or not stream:
        told["prompt_tokens_details"] = details  # type: ignore[assignment]
    return told


def reported_cached(counts: Counts, options: Options) -> int:
    """The cached tokens that usage claims."""
    if options.lying_usage == "zero":
        return 0
    return counts.cached + int(options.lying_usage or 0)


def put(body: dict[str, Any], dotted: str, value: object) -> None:
    """Sets body["a"]["b"] for the path "a.b"."""
    *parents, last = dotted.split(".")
    for name in parents:
        body = body.setdefault(name, {})
    body[last] = value


class ChunkShapes:
    """The events of one stream; the parts that do not change between events are built once."""

    def __init__(self, completion_id: str, options: Options, *, chat: bool) -> None:
        self.chat = chat
        self.reasoning = options.reasoning_field
        self.base: dict[str, Any] = {
            "id": completion_id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": int(time.time()),
            "model": options.model,
        }
        opening = to_json(self.base)[:-1].decode()
        self._opening = f'data: {opening},"choices":[{{"index":0,'

    def role(self) -> bytes:
        """The first chunk of a chat, which carries no token."""
        delta = '"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        return f'{self._opening}{delta},"prompt_token_ids":null,"prompt_text":null}}\n\n'.encode()

    def empty(self) -> bytes:
        """A chunk with empty text."""
        text = self._text('""', reasoning=False)
        return f"{self._opening}{text},{self._ending(None)}\n\n".encode()

    def token(
        self,
        word: int,
        *,
        first: bool,
        reasoning: bool,
        finish: str | None,
        extra: str = "",
        silent: bool = False,
    ) -> bytes:
        """One token; `extra` is more JSON for the top level, each entry led by a comma; `silent`: without text."""
        text = self._text('""' if silent else _PIECES_JSON[word][not first], reasoning=reasoning)
        return f"{self._opening}{text},{self._ending(finish, extra)}\n\n".encode()

    def usage(self, told: dict[str, Any], extra: dict[str, Any]) -> bytes:
        """The usage-only chunk."""
        body = {**self.base, "choices": [], "usage": told, "system_fingerprint": FINGERPRINT, **extra}
        return b"data: " + to_json(body) + b"\n\n"

    def _text(self, quoted: str, *, reasoning: bool) -> str:
        if not self.chat:
            return f'"text":{quoted}'
        return f'"delta":{{"{self.reasoning if reasoning else "content"}":{quoted}}}'

    def _ending(self, finish: str | None, extra: str = "") -> str:
        reason = f'"{finish}"' if finish else "null"
        stop = '"stop_reason":null,' if finish or not self.chat else ""
        prompt_ids = "" if self.chat else '"prompt_token_ids":null,'
        return f'"logprobs":null,"finish_reason":{reason},{stop}{prompt_ids}"token_ids":null}}]{extra}}}'


def completion(
    shapes: ChunkShapes, words: list[int], reasoning_tokens: int, finish: str, told: dict[str, Any] | None
) -> dict[str, Any]:
    """The body of a response that is not streamed."""
    texts = [PIECES[word][i > 0] for i, word in enumerate(words)]
    reasoning, text = "".join(texts[:reasoning_tokens]), "".join(texts[reasoning_tokens:])
    choice: dict[str, Any] = {"index": 0}
    if shapes.chat:
        message = {"role": "assistant", "content": text, "refusal": None, "function_call": None}
        choice["message"] = message | {shapes.reasoning: reasoning or None}
    else:
        choice["text"] = "".join(texts)
    choice |= {"logprobs": None, "finish_reason": finish, "stop_reason": None, "token_ids": None}
    kind = "chat.completion" if shapes.chat else "text_completion"
    body = {**shapes.base, "object": kind, "choices": [choice], "service_tier": None}
    body["system_fingerprint"] = FINGERPRINT
    if told is not None:
        body["usage"] = told
    return body


def models(options: Options) -> dict[str, Any]:
    """GET /v1/models."""
    entry: dict[str, Any] = {"id": options.model, "object": "model", "created": STARTED_S}
    entry["owned_by"] = OWNERS[options.persona]
    if options.persona == "vllm":
        entry |= {"root": "model", "parent": None, "max_model_len": options.max_model_len}
    elif options.persona == "llamacpp":
        entry["meta"] = {"n_ctx": options.max_model_len, "n_ctx_train": 2**17, "n_vocab": 2**31}
    return {"object": "list", "data": [entry]}


def llamacpp_props(options: Options) -> dict[str, Any]:
    """GET /props of llama.cpp's server."""
    return {
        "default_generation_settings": {"n_ctx": options.max_model_len},
        "total_slots": options.max_running or 1,
        "model_path": f"/models/{options.model}.gguf",
        "build_info": "b0-fake",
    }
