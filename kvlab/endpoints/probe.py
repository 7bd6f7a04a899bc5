"""What a server can prove, found out by asking it: a handful of one-token requests.

Each answer is a `Fact` with the observation behind it. The probes carry a random marker, so they
warm nothing that a measurement uses.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from kvlab.endpoints import proof
from kvlab.endpoints.asking import Asker, answered
from kvlab.endpoints.connect import Connection, Identity
from kvlab.endpoints.counter import (
    CalibratedCounter,
    Counter,
    InputTokensCounter,
    ServerCounter,
)
from kvlab.endpoints.facts import Fact
from kvlab.endpoints.metrics import ServerView
from kvlab.endpoints.models import another
from kvlab.errors import InputError, KvlabError, ServerError
from kvlab.evidence import CacheLaw, usage_evidence
from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Measurement

_WORDS = "A prefix cache keeps the keys and values of tokens that it has seen before . "
_TOKENS_A_LINE = 16
#: Hosted APIs reuse nothing of a shorter prompt than 1,024 tokens.
_HOSTED_MINIMUM_TOKENS = 1200
#: Servers of one's own reuse short prompts, too.
_NO_MINIMUM = ("vLLM", "llama.cpp")
#: A repeat may reach another replica or engine than the first request, so 0 is believed only after so many.
_REPEATS = 4


@dataclass(frozen=True)
class _Seen:
    """One probe, as the answer and the server's counters have it."""

    measured: Measurement
    answer: int | None
    view: ServerView

    @property
    def counted(self) -> int | None:
        return self.view.cached_tokens

    @property
    def prompt_tokens(self) -> int | None:
        return usage_evidence(self.measured.usage)[0]


class _Probe:
    """The probes of one server, one after the other."""

    def __init__(self, connection: Connection, identity: Identity) -> None:
        self.connection, self.identity = connection, identity
        self.asker = Asker(connection)
        self.facts: dict[str, Fact] = {}

    def see(self, text: str) -> _Seen:
        """Ask, with a scrape of the counters on either side."""
        metrics = self.connection.metrics
        before = metrics.scrape()
        measured = self.asker.ask(_chat(text))
        view = ServerView(reason="the server has no vLLM metrics")
        if before is not None and before.finished is not None and answered(measured):
            view = metrics.view(before, usage_evidence(measured.usage)[0])
        return _Seen(measured, self.asker.cached(measured), view)

    def first(self) -> tuple[str, _Seen]:
        """Ask a prompt of several blocks, shorter where the server refuses it for its length.

        Raises:
            InputError: The request is refused at every length: the key, the model or the path is wrong.
            KvlabError: Not one request is answered.
        """
        lines = _lines(self.identity)
        while True:
            text = _text(lines)
            seen = self.see(text)
            failure = seen.measured.failure
            refused = failure is not None and failure.error_type is ErrorType.REFUSED_INPUT
            if (
                refused
                and failure is not None
                and failure.http_status not in (401, 402, 403, 404)
                and lines > 1
            ):
                lines //= 4
                continue
            self._require_answer(seen.measured)
            return text, seen

    def _require_answer(self, measured: Measurement) -> None:
        failure = measured.failure
        if failure is None or answered(measured):
            return
        url, model = self.connection.target.base_url, self.connection.model
        reason = " ".join(failure.message.split())[:300]
        if failure.http_status in (401, 403):
            fix = f"is refused by {url} (HTTP {failure.http_status}: {reason}); correct it"
            raise InputError("OPENAI_API_KEY", None, fix)
        if failure.error_type is not ErrorType.REFUSED_INPUT:
            raise KvlabError(
                f"{url} answers no chat request for model {model!r}: {failure.error_type}: {reason}"
            )
        what = f"refuses a chat request for model {model!r} (HTTP {failure.http_status}: {reason})"
        fix = "correct the URL or OPENAI_MODEL" if failure.http_status == 404 else "the server says why"
        raise InputError("OPENAI_BASE_URL", url, f"{what}; {fix}")

    def run(self) -> Identity:
        """Find the facts out."""
        tokenizer = _tokenizer(self.connection)
        text, first = self.first()
        again = self._repeat(text)
        fresh = self.see(_text(2, start=text.count(_WORDS)))
        facts = self.facts
        facts["tokenizer"], facts["metrics"] = tokenizer, self._metrics()
        facts["usage"] = _usage(first)
        facts["model"] = self._model(first.measured)
        facts["cached_tokens"] = _cached_tokens(self.connection, first, again, fresh)
        facts["cached_counters"] = _cached_counters(first, again)
        facts["reuse"] = _reuse(again)
        facts[proof.ONE_CACHE] = _one_cache(again)
        facts["salt"] = self._salt(text)
        facts["token_ids"] = _token_ids(self.asker, tokenizer)
        if (words := self.connection.dialect.words) is not None:
            facts["request_form"] = Fact(holds=True, why=f"requests are written {words}")
        law = self._law(text, again[-1], fresh)
        if law is None and self.identity.law is not None and _read(again[-1]):
            facts["law"] = self._stated_law(self.identity.law, text, again[-1])
        identity = self.identity.model_copy(update={"facts": facts, "learned_law": law})
        facts[proof.CACHE_STATES] = proof.proves(identity)
        return identity

    def _repeat(self, text: str) -> list[_Seen]:
        """Repeat a prompt until something is read from a cache, or nothing was for some times."""
        seen: list[_Seen] = []
        while len(seen) < _REPEATS:
            seen.append(self.see(text))
            last = seen[-1]
            if last.answer or last.counted or (last.answer is None and last.counted is None):
                break
        return seen

    def _metrics(self) -> Fact:
        metrics = self.connection.metrics
        scrapes = [metrics.scrape() for _ in range(4)]  # idle now: a router shows itself by going back
        if scrapes[-1] is None:
            return Fact(holds=False, why=f"/metrics does not answer ({metrics.why})")
        if scrapes[-1].finished is None or scrapes[-1].cached_tokens() is None:
            why = "/metrics has no vLLM counters of finished requests and cached tokens"
            return Fact(holds=False, why=why)
        if metrics.several:
            return Fact(holds=False, why=f"/metrics cannot be assigned: {metrics.several}")
        return Fact(holds=True, why="/metrics counts finished requests and cached prompt tokens")

    def _model(self, measured: Measurement) -> Fact:
        generation = measured.generation
        if generation is None or generation.model is None:
            return Fact(why="answers name no model")
        wrong = another(self.connection.model, generation.model, self.connection.aliases)
        if wrong is not None:
            return Fact(holds=False, why=f"{wrong}; set OPENAI_MODEL to the one that shall be measured")
        return Fact(holds=True, why=f"answers name {generation.model[:80]!r}")

    def _salt(self, text: str) -> Fact:
        if not self.facts["cached_tokens"].holds:
            return Fact(why="not found out: cached tokens are not reported")
        salted = self.asker.ask(_chat(text), cache_salt=secrets.token_hex(8))
        if not answered(salted):
            return Fact(holds=False, why=f"cache_salt is refused ({_failed(salted)})")
        cached = self.asker.cached(salted)
        if cached == 0:
            return Fact(holds=True, why="a known prompt with a fresh cache_salt had 0 cached tokens")
        return Fact(holds=False, why=f"cache_salt is ignored: {cached} cached tokens under a fresh one")

    def _law(self, text: str, again: _Seen, fresh: _Seen) -> CacheLaw | None:
        """Return the law of a cache that reuses by the token; ``None``: not that one, or its blocks are stated.

        A repeat reads all but the last token, at two lengths of which one is a token longer: only a grain of
        one token divides both.
        """
        if self.identity.block_size not in (None, 1) or not _all_but_one(again):
            return None
        longer = f"{text} x"
        self.see(longer)
        other = self._repeat(longer)[-1]  # the next one may reach another replica
        if not _all_but_one(other) or other.prompt_tokens == again.prompt_tokens:
            return None
        return CacheLaw.by_token(_read(fresh) or 0)

    def _stated_law(self, law: CacheLaw, text: str, again: _Seen) -> Fact:
        """Hold a stated block size against what repeats read: at the first length, and just below a whole block.

        There, a smaller grain reads more, and a larger one less, than the stated one would.
        """
        short = 0 if again.prompt_tokens is None else -again.prompt_tokens % law.grain_tokens
        longer = text + " x" * short
        self.see(longer)
        for seen in (again, *(self.see(longer) for _ in range(2))):
            read, n = _read(seen), seen.prompt_tokens
            if read is None or n is None:
                return Fact(why="a repeat was answered without a count")
            wanted = law.full_hit(n)
            if read > wanted or read % law.grain_tokens:
                break
            if read == wanted and seen is not again:
                return Fact(holds=True, why=f"a repeat of {n} tokens read {read}, as {law.words} predicts")
        why = f"a repeat of {n} tokens read {read}, where {law.words} predicts {wanted}"
        return Fact(holds=False, why=f"{why}: the block size is not {law.grain_tokens}")


def probe(connection: Connection, identity: Identity) -> Identity:
    """Return ``identity`` with its facts found out.

    Raises:
        InputError: The very first request is refused: the key, the model or the path is wrong.
        KvlabError: Not one request is answered.
    """
    return _Probe(connection, identity).run()


def counter(connection: Connection, identity: Identity) -> Counter:
    """Return the best way to count prompts that this server allows.

    A page that counts is held against ``usage`` of one request before it is believed.

    Raises:
        ServerError: It allows none.
    """
    asker = Asker(connection)
    sample = _chat(_text(4))
    if identity.can("tokenizer"):
        found = _tokenize(connection)
        reported = asker.usage(sample)[0]
        off = 0 if reported is None else reported - found(sample)
        return found if abs(off) > _TEMPLATE_TOKENS else _with_offset(found, off)
    url = f"{connection.target.base_url}/chat/completions/input_tokens"
    counts = InputTokensCounter(connection.http, url, connection.model, redact=connection.settings.redact)
    try:
        if identity.kind == "llama.cpp" and counts(sample) == asker.usage(sample)[0]:
            return counts
    except ServerError:
        pass
    try:
        return CalibratedCounter.fit((_chat(_text(10)), _chat(_text(40))), asker.usage)
    except ServerError:
        if identity.can("usage"):  # then the longer one did not fit
            return CalibratedCounter.fit((_chat(_text(2)), _chat(_text(8))), asker.usage)
        raise


#: A generation prompt has fewer tokens; a larger difference is no template's.
_TEMPLATE_TOKENS = 32


def _with_offset(found: ServerCounter, off: int) -> ServerCounter:
    if off:
        found.chat_offset = off
        found.source = f"{found.source}, {off:+d} tokens a chat by usage"
    return found


def _lines(identity: Identity) -> int:
    # Several blocks. Servers that do not say use up to 1,024 tokens a step, or reuse nothing below so many.
    least = 0 if identity.kind in _NO_MINIMUM else _HOSTED_MINIMUM_TOKENS
    unknown = 64 if identity.kind == "llama.cpp" else 300  # it reuses by the token, and may compute slowly
    wanted = -(-max(4 * min(identity.block_size or unknown, 4096), least) // _TOKENS_A_LINE)
    if identity.max_model_len is None:
        return wanted
    return max(1, min(wanted, (identity.max_model_len // 2) // (2 * _TOKENS_A_LINE)))


def _text(lines: int, start: int = 0) -> str:
    """Return a text that shares nothing with any other."""
    return secrets.token_hex(8) + " " + _WORDS * max(lines, start)


def _chat(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


def _tokenize(connection: Connection) -> ServerCounter:
    url, redact = f"{connection.root}/tokenize", connection.settings.redact
    return ServerCounter(connection.http, url, connection.model, redact=redact)


def _tokenizer(connection: Connection) -> Fact:
    try:
        count = _tokenize(connection)(_chat("one two three"))
    except ServerError as error:
        why = str(error).partition(": ")[2]
        return Fact(holds=False, why=f"/tokenize does not answer ({why})")
    if not count:  # llama.cpp's, which takes a text as `content` and leaves the chat template out
        return Fact(holds=False, why="/tokenize counts 0 tokens for a chat of three words: it takes no chats")
    return Fact(holds=True, why=f"/tokenize counts {count} tokens for a chat of three words")


def _usage(seen: _Seen) -> Fact:
    if not answered(seen.measured):
        return Fact(why=_failed(seen.measured))
    if seen.prompt_tokens is None:
        return Fact(holds=False, why="the stream carries no usage")
    if seen.prompt_tokens == 0:
        return Fact(holds=False, why="usage.prompt_tokens was 0 for a prompt of many words")
    return Fact(holds=True, why=f"usage.prompt_tokens was {seen.prompt_tokens}")


def _cached_tokens(connection: Connection, first: _Seen, again: list[_Seen], fresh: _Seen) -> Fact:
    """Whether answers say what was read from the cache: none of a fresh prompt, some of a repeated one."""
    where = connection.target.field_path or "usage.prompt_tokens_details.cached_tokens"
    last = again[-1]
    if not answered(first.measured) or not answered(last.measured):
        return Fact(why=_failed(first.measured if not answered(first.measured) else last.measured))
    cold, warm = first.answer, last.answer
    if warm is None:
        return Fact(holds=False, why=f"{where} is not there")
    if warm == 0:
        return Fact(holds=False, why=f"{where} stayed 0 when a prompt was repeated: no prefix cache is shown")
    if cold is None and fresh.answer is None:
        why = f"{where} was {warm} when a prompt was repeated, and not there at first: nothing cold is shown"
        return Fact(holds=False, why=why)
    if last.counted and last.counted != warm:
        return Fact(holds=False, why=f"the answer says {warm} cached tokens, the counters {last.counted}")
    if connection.target.field_path and (usage := usage_evidence(last.measured.usage)[1]) not in (None, warm):
        return Fact(holds=False, why=f"{where} says {warm} cached tokens, usage {usage}")
    if last.prompt_tokens is not None and warm > last.prompt_tokens:
        return Fact(holds=False, why=f"{where} says {warm} cached tokens of a prompt of {last.prompt_tokens}")
    return Fact(holds=True, why=f"{where} went from {cold} to {warm} when a prompt was repeated")


def _cached_counters(first: _Seen, again: list[_Seen]) -> Fact:
    """Whether the server's counters follow its cache; ``None``: they could not be assigned."""
    last = again[-1]
    if last.counted is None or first.counted is None:
        return Fact(why=f"counters: {last.view.reason or first.view.reason}")
    if last.counted == 0:
        return Fact(holds=False, why="the counter of cached tokens stayed 0 when a prompt was repeated")
    if last.answer is not None and last.answer != last.counted:
        return Fact(why=f"the counters say {last.counted} cached tokens, the answer {last.answer}")
    why = f"the counter of cached tokens grew by {first.counted}, then by {last.counted} for a repeat"
    return Fact(holds=True, why=why)


def _reuse(again: list[_Seen]) -> Fact:
    """Whether a repeated prompt was read from a cache, by whatever shows it."""
    figures = [seen.answer for seen in again] + [seen.counted for seen in again]
    if most := max((tokens for tokens in figures if tokens), default=0):
        return Fact(holds=True, why=f"{most} tokens of a repeated prompt were read from a cache")
    if all(figure is None for figure in figures):
        return Fact(why="nothing says what was read from a cache")
    return Fact(holds=False, why=f"a prompt that was repeated {len(again)} times was 0 tokens in the cache")


def _one_cache(again: list[_Seen]) -> Fact:
    """Whether every repeat found its prompt, or some reached a cache that did not have it."""
    found = [_read(seen) for seen in again]
    if not found[-1]:
        return Fact(why="no repeat was read from a cache")
    missed = sum(not tokens for tokens in found)
    if not missed:
        return Fact(holds=True, why="the first repeat was read from a cache")
    why = f"{missed} of {len(found)} repeats found nothing: several replicas may answer, each with a cache of its own"
    return Fact(holds=False, why=why)


def _token_ids(asker: Asker, tokenizer: Fact) -> Fact:
    if not tokenizer.holds:
        return Fact(why="not found out: no tokenizer")
    connection = asker.connection
    try:
        ids = _tokenize(connection).tokens({"prompt": "one two three four"})
    except ServerError as error:
        return Fact(holds=False, why=str(error))
    measured = asker.ask({"prompt": ids})
    if not answered(measured):
        return Fact(holds=False, why=_failed(measured))
    tokens, _ = usage_evidence(measured.usage)
    return Fact(holds=tokens == len(ids), why=f"a prompt of {len(ids)} token ids was counted as {tokens}")


def _read(seen: _Seen) -> int | None:
    return seen.answer if seen.answer is not None else seen.counted


def _all_but_one(seen: _Seen) -> bool:
    read = _read(seen)
    return bool(read) and seen.prompt_tokens is not None and read == seen.prompt_tokens - 1


def _failed(measured: Measurement) -> str:
    failure = measured.failure
    return f"{failure.error_type}: {failure.message[:120]}" if failure else "no answer"
