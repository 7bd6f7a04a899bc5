"""What a server can prove, found out by asking it: a handful of one-token requests.

Each answer is a `Fact` with the observation behind it. The probes carry a random marker, so they
warm nothing that a measurement uses.
"""

import secrets
from typing import Any

from kvlab.endpoints.connect import Connection, Fact, Identity
from kvlab.endpoints.counter import CalibratedCounter, Counter, Prompt, ServerCounter
from kvlab.errors import InputError
from kvlab.evidence import as_tokens, usage_evidence
from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Measurement

_WORDS = "A prefix cache keeps the keys and values of tokens that it has seen before . "


def probe(connection: Connection, identity: Identity) -> Identity:
    """Return ``identity`` with its facts found out.

    Raises:
        InputError: The very first request is refused: the key, the model or the path is wrong.
    """
    tokenizer = _tokenizer(connection)
    facts = {"tokenizer": tokenizer, "metrics": _metrics(connection)}
    text = _text(identity.block_size)
    first, again = _ask(connection, _chat(text)), _ask(connection, _chat(text))
    _check_accepted(connection, first)
    facts["usage"] = _usage(first)
    facts["cached_tokens"] = _cached_tokens(connection, first, again)
    facts["salt"] = _salt(connection, text, facts["cached_tokens"])
    facts["token_ids"] = _token_ids(connection, tokenizer)
    return identity.model_copy(update={"facts": facts})


def counter(connection: Connection, identity: Identity) -> Counter:
    """Return the best way to count prompts that this server allows.

    Raises:
        ServerError: It allows none.
    """
    if identity.can("tokenizer"):
        return ServerCounter(connection.http, f"{connection.root}/tokenize", connection.model)

    def usage(prompt: Prompt) -> int | None:
        measured = _ask(connection, prompt)
        return usage_evidence(measured.generation.usage if measured.generation else None)[0]

    return CalibratedCounter.fit((_chat(_text(None, 10)), _chat(_text(None, 40))), usage)


def _check_accepted(connection: Connection, first: Measurement) -> None:
    failure = first.failure
    if failure is None or failure.error_type is not ErrorType.REFUSED_INPUT:
        return
    url = connection.target.base_url
    message = connection.settings.redact(failure.message)[:200]
    if failure.http_status in (401, 403):
        raise InputError(
            "OPENAI_API_KEY", None, f"is refused by {url} (HTTP {failure.http_status}); correct it"
        )
    fix = f"refuses a chat request for model {connection.model!r} (HTTP {failure.http_status}: {message}); "
    raise InputError("OPENAI_BASE_URL", url, fix + "correct the URL or OPENAI_MODEL")


def _text(block_size: int | None, lines: int = 0) -> str:
    # Long enough for several blocks; servers that do not say use up to 1,024 tokens a step.
    wanted = lines or -(-4 * (block_size or 300) // 16)
    return secrets.token_hex(8) + " " + _WORDS * wanted


def _chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def _ask(connection: Connection, prompt: Prompt, **extra: Any) -> Measurement:  # noqa: ANN401 - JSON
    path = "/chat/completions" if "messages" in prompt else "/completions"
    body = {
        "model": connection.model,
        **prompt,
        "max_tokens": 1,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **extra,
    }
    return connection.client.measure(path, body, f"probe-{secrets.token_hex(4)}")


def _tokenizer(connection: Connection) -> Fact:
    url = f"{connection.root}/tokenize"
    try:
        count = ServerCounter(connection.http, url, connection.model)(_chat("one two three"))
    except Exception as error:
        return Fact(holds=False, why=f"/tokenize does not answer ({type(error).__name__})")
    if not count:  # llama.cpp's, which takes a text as `content` and leaves the chat template out
        return Fact(holds=False, why="/tokenize counts 0 tokens for a chat of three words: it takes no chats")
    return Fact(holds=True, why=f"/tokenize counts {count} tokens for a chat of three words")


def _metrics(connection: Connection) -> Fact:
    scrape = connection.metrics.scrape()
    if scrape is None:
        return Fact(holds=False, why="/metrics does not answer")
    if scrape.finished is None or scrape.cached_tokens() is None:
        return Fact(holds=False, why="/metrics has no vLLM counters of finished requests and cached tokens")
    return Fact(holds=True, why="/metrics counts finished requests and cached prompt tokens")


def _usage(measured: Measurement) -> Fact:
    if measured.generation is None:
        return Fact(why=_failed(measured))
    tokens, _ = usage_evidence(measured.generation.usage)
    if tokens is None:
        return Fact(holds=False, why="the stream carries no usage")
    return Fact(holds=True, why=f"usage.prompt_tokens was {tokens}")


def _cached(connection: Connection, measured: Measurement) -> int | None:
    if measured.generation is None:
        return None
    if connection.target.field_path:
        return as_tokens(measured.generation.field_value)
    return usage_evidence(measured.generation.usage)[1]


def _cached_tokens(connection: Connection, first: Measurement, again: Measurement) -> Fact:
    where = connection.target.field_path or "usage.prompt_tokens_details.cached_tokens"
    if first.generation is None or again.generation is None:
        return Fact(why=_failed(first if first.generation is None else again))
    cold, warm = _cached(connection, first), _cached(connection, again)
    if warm is None:
        return Fact(holds=False, why=f"{where} is not there")
    if warm == 0:
        return Fact(holds=False, why=f"{where} stayed 0 when a prompt was repeated: no prefix cache is shown")
    return Fact(holds=True, why=f"{where} went from {cold} to {warm} when a prompt was repeated")


def _salt(connection: Connection, text: str, evidence: Fact) -> Fact:
    if not evidence.holds:
        return Fact(why="not found out: cached tokens are not reported")
    salted = _ask(connection, _chat(text), cache_salt=secrets.token_hex(8))
    if salted.generation is None:
        return Fact(holds=False, why=f"cache_salt is refused ({_failed(salted)})")
    cached = _cached(connection, salted)
    if cached == 0:
        return Fact(holds=True, why="a known prompt with a fresh cache_salt had 0 cached tokens")
    return Fact(holds=False, why=f"cache_salt is ignored: {cached} cached tokens under a fresh one")


def _token_ids(connection: Connection, tokenizer: Fact) -> Fact:
    if not tokenizer.holds:
        return Fact(why="not found out: no tokenizer")
    url = f"{connection.root}/tokenize"
    ids = ServerCounter(connection.http, url, connection.model).tokens({"prompt": "one two three four"})
    measured = _ask(connection, {"prompt": ids})
    if measured.generation is None:
        return Fact(holds=False, why=_failed(measured))
    tokens, _ = usage_evidence(measured.generation.usage)
    return Fact(holds=tokens == len(ids), why=f"a prompt of {len(ids)} token ids was counted as {tokens}")


def _failed(measured: Measurement) -> str:
    failure = measured.failure
    return f"{failure.error_type}: {failure.message[:120]}" if failure else "no answer"
