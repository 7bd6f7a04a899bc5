"""What a generation request may ask for; refusals are worded as vLLM 0.32 words them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .generation import Job
from .options import Options
from .shapes import error
from .tokenizer import VOCABULARY_SIZE, Tokenizer

DEFAULT_COMPLETION_TOKENS = 16


class Refusal(Exception):  # noqa: N818 - it is an answer, not a failure of this program
    """A request that is answered with an error."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(body)
        self.status = status
        self.body = body


def bad_request(message: str, param: str | None = None) -> Refusal:
    """A 400."""
    return Refusal(400, error(400, message, param))


def check_key(headers: Mapping[str, str], options: Options) -> None:
    """Raises a 401 that quotes the wrong key, as OpenAI's API does (there, with its middle masked)."""
    given = headers.get("authorization", "").removeprefix("Bearer ")
    if options.require_key and given != options.require_key:
        body = error(401, f"Incorrect API key provided: {given}. You can find your API key in the settings.")
        body["error"]["code"] = "invalid_api_key"
        raise Refusal(401, body)


def check_model(body: Mapping[str, Any], options: Options) -> None:
    """Raises a 404 for a model that is not served; a request may leave it out."""
    model = body.get("model") or options.model
    if model != options.model:
        message = f"The model `{model}` does not exist. Valid aliases: {options.model}."
        raise Refusal(404, error(404, message, "model"))


def job(
    body: dict[str, Any],
    *,
    chat: bool,
    schedule_header: str,
    fault: str | None,
    parts: tuple[Options, Tokenizer],
) -> Job:
    """The job that a request's body describes; raises Refusal."""
    options, tokenizer = parts
    check_model(body, options)
    salt = _salt(body, options)
    tokens = prompt_tokens(body, chat=chat, options=options, tokenizer=tokenizer)
    limit = _limit(body, len(tokens), chat=chat, options=options)
    return Job(
        tokens=tokens,
        sent_salt=salt,
        salt=salt if options.honour_salt else None,
        limit=limit,
        explicit_ms=_schedule(schedule_header),
        chat=chat,
        stream=bool(body.get("stream")),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        ignore_eos=bool(body.get("ignore_eos")),
        fault=fault,
        kv_budget=float(body.get("kv_budget", 1.0)),
    )


def prompt_tokens(
    body: dict[str, Any], *, chat: bool, options: Options, tokenizer: Tokenizer, limited: bool = True
) -> list[int]:
    """The ids of a request's prompt or messages; raises Refusal when there are none or too many."""
    if chat:
        tokens, exact = _chat_tokens(body, options, tokenizer), False
    else:
        tokens, exact = _completion_tokens(body.get("prompt"), options, tokenizer)
    if not tokens:
        raise bad_request("You must pass at least one prompt")
    if limited and options.truncates:
        tokens = tokens[-options.max_model_len :]
    elif limited and len(tokens) >= options.max_model_len:
        raise _too_long(len(tokens), options.max_model_len, exact=exact)
    return tokens


def _chat_tokens(body: dict[str, Any], options: Options, tokenizer: Tokenizer) -> list[int]:
    messages = body.get("messages")
    if not isinstance(messages, list):
        message = (
            "1 validation error:\n  {'type': 'missing', 'loc': 'body.messages', 'msg': 'Field required'}"
        )
        raise Refusal(400, error(400, message, "body.messages", "Bad Request"))
    return tokenizer.chat(
        messages,
        prefix_tokens=options.template_prefix_tokens,
        message_tokens=options.message_tokens,
        add_generation_prompt=body.get("add_generation_prompt", True),
        continue_final_message=body.get("continue_final_message", False),
    )


def _completion_tokens(prompt: object, options: Options, tokenizer: Tokenizer) -> tuple[list[int], bool]:
    """The ids, and whether they came as ids."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return tokenizer.encode(prompt), False
    if not isinstance(prompt, list) or not all(type(token) is int for token in prompt):
        raise bad_request("prompt must be one string or one list of token ids", "prompt")
    if not options.token_ids:
        raise bad_request("prompt must be a string: token ids are not supported", "prompt")
    for token in prompt:
        if not 0 <= token < VOCABULARY_SIZE:
            raise bad_request(f"Token id {token} is out of vocabulary")
    return prompt, True


def _too_long(tokens: int, most: int, *, exact: bool) -> Refusal:
    # vLLM stops tokenizing a text one token above the limit, so it knows no more than "at least".
    counted = f"{tokens}" if exact else f"at least {most + 1}"
    value = tokens if exact else most + 1
    return bad_request(
        f"This model's maximum context length is {most} tokens. However, your prompt contains {counted} input "
        "tokens, which exceeds this limit even without any output tokens. Please reduce the length of the "
        f"input prompt. (parameter=input_tokens, value={value})",
        "input_tokens",
    )


def _limit(body: dict[str, Any], prompt: int, *, chat: bool, options: Options) -> int:
    """Most tokens to generate. Above what is left of the context it is cut, not refused."""
    left = max(options.max_model_len - prompt, options.truncates)
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    if asked is None:
        asked = body.get("max_tokens", left if chat else DEFAULT_COMPLETION_TOKENS)
    if asked is None:
        asked = left
    if asked < 1:
        raise bad_request(
            f"max_tokens must be at least 1, got {asked}. (parameter=max_tokens, value={asked})", "max_tokens"
        )
    if asked > options.max_model_len:
        raise bad_request(
            f"max_tokens={asked} cannot be greater than max_model_len={options.max_model_len}. Please request "
            f"fewer output tokens. (parameter=max_tokens, value={asked})",
            "max_tokens",
        )
    return min(asked, left)


def _salt(body: dict[str, Any], options: Options) -> str | None:
    salt = body.get("cache_salt")
    if salt is None:
        return None
    if options.salt_rejected:
        raise bad_request("Unrecognized request argument supplied: cache_salt", "cache_salt")
    if not isinstance(salt, str) or not salt:
        message = "Parameter 'cache_salt' must be a non-empty string if provided. (parameter=cache_salt)"
        raise bad_request(message, "cache_salt")
    return salt


def _schedule(header: str) -> list[float]:
    try:
        return [float(ms) for ms in header.split(",")] if header else []
    except ValueError:
        raise bad_request(
            f"X-Fake-Schedule must be numbers of ms with commas between, got {header!r}"
        ) from None
