"""A server's law, learned once and remembered; and held against two requests whenever a run begins.

A law that ``kvlab run cache_laws`` has claimed is kept in a file of its own for each server, model and
version, so that every experiment can hold its labels against it. What was true of a server may not be true
any more (another flag, another version behind the same address), so a run believes it only after two
requests: a prompt that nobody has sent reads no more than the start that all prompts share, and its repeat
reads exactly what the law says. Its length is chosen where few other laws would read the same.
"""

import hashlib
import itertools
import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvlab import paths
from kvlab.bounded import json_value
from kvlab.endpoints import proof
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import ServerCounter, shared_prefix
from kvlab.endpoints.facts import Fact
from kvlab.evidence import CacheLaw, classify
from kvlab.records import Recorded
from kvlab.runs.files import write_atomic

if TYPE_CHECKING:
    from kvlab.endpoints.openai import OpenAICompat

FACT = "learned_law"
#: A file of a law has some hundred bytes.
_MOST_BYTES = 65_536
#: A repeat may reach another replica, or come before its prefix is stored: less is believed only after so many.
_REPEATS = 3
_FEWEST_TOKENS, _MOST_TOKENS = 64, 100_000
_FORMAT = 1
_SENTENCE = [
    "A",
    "prefix",
    "cache",
    "keeps",
    "the",
    "keys",
    "and",
    "values",
    "of",
    "tokens",
    "that",
    "it",
    "has",
    "seen",
    "before",
    ".",
]


def key(identity: Identity) -> dict[str, Any]:
    """Return what a law is remembered by: what answers, which model, which version, with which flags."""
    flags = "" if identity.url != "embedded" else " ".join(identity.flags)
    fields = ("kind", "version", "url", "model", "revision", "block_size")
    return {name: getattr(identity, name) for name in fields} | {"flags": flags}


def path_of(identity: Identity) -> Path:
    """Return the file that holds a server's law."""
    digest = hashlib.sha256(json.dumps(key(identity), sort_keys=True).encode()).hexdigest()[:16]
    return paths.laws_dir() / f"{digest}.json"


def remember(identity: Identity, law: CacheLaw, facts: Mapping[str, Any]) -> Path | None:
    """Keep a law for later runs; the last one that was learned counts.

    Args:
        identity: Of the server.
        law: As it was claimed.
        facts: On which grounds (held-out prompts, lengths), for a person to read.

    Returns:
        The file; ``None``: it could not be written, which costs later runs the law and nothing else.
    """
    content = {
        "format": _FORMAT,
        "server": key(identity),
        "law": asdict(law),
        "formula": law.formula,
        "learned_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    }
    path = path_of(identity)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    except OSError as error:
        print(f"the law is not kept for later runs: {path}: {error.strerror or error}")
        return None
    return path


def recall(identity: Identity) -> tuple[CacheLaw | None, str | None]:
    """Return the law that was learned of a server, and one line where its file is bad; neither: none is kept."""
    path = path_of(identity)
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ValueError(f"more than {_MOST_BYTES:,} bytes")
        return _law(json_value(text), key(identity)), None
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, TypeError) as error:
        said = " ".join(str(error).split())[:120]
        return None, f"the law kept in {path} cannot be used ({said}); delete it, or learn the law again"


def _law(content: Any, wanted: Mapping[str, Any]) -> CacheLaw:  # noqa: ANN401 - JSON
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"it is no law of format {_FORMAT}")
    if content.get("server") != wanted:
        raise ValueError("it is another server's")
    fields = content.get("law")
    if not isinstance(fields, dict) or not all(
        (type(v) is int and abs(v) < 10**9) or v is None for v in fields.values()
    ):
        raise ValueError("its law is not made of numbers of tokens")
    return CacheLaw(**fields)


def check(engine: "OpenAICompat") -> None:
    """Take the law that was learned of this server, if there is one and two requests are as it predicts.

    The engine's identity says so: as its ``learned_law`` and as the fact `FACT`; where they disagree, the law
    is dropped for this run, and labels are what they were without it. The requests are kept in
    ``engine.opening``.
    """
    before = engine.identity
    law, bad = recall(before)
    if bad is not None:
        print(bad)
        engine.identity = _with_fact(before, Fact(holds=False, why=bad))
    if law is None:
        return
    # A first look that saw no reuse asked what the law never serves, perhaps; this one asks what it does serve.
    open_to_zero = {name: fact for name, fact in before.facts.items() if name != "reuse"}
    engine.identity = before.model_copy(update={FACT: law, "facts": open_to_zero})
    holds, why = _Checking(engine, law).run()
    said = f"{law.words}: {why}"
    if holds:
        print(f"the law that was learned of this server holds ({said})")
        found = before.model_copy(update={FACT: law, "facts": {**before.facts, **_shown(engine, why)}})
    else:
        found = before
        said = f"the law that was learned of this server is not used in this run ({said})"
        print(said)
    engine.identity = _with_fact(found, Fact(holds=holds, why=said))


def _shown(engine: "OpenAICompat", why: str) -> dict[str, Fact]:
    """Return the facts that a check which holds has shown, whatever the first look at the server saw."""
    evidence = engine.opening[-1].evidence
    told = evidence.usage_tokens if evidence.field_tokens is None else evidence.field_tokens
    shown = {"reuse": Fact(holds=True, why=why)}
    return shown | ({proof.NEED: Fact(holds=True, why=f"the answers say so: {why}")} if told else {})


def _with_fact(identity: Identity, fact: Fact) -> Identity:
    facts = {**identity.facts, FACT: fact}
    if fact.holds:
        facts.pop("law", None)  # what the stated block size would read does not matter any more
    found = identity.model_copy(update={"facts": facts})
    facts[proof.CACHE_STATES] = proof.proves(found)
    return found.model_copy(update={"facts": facts})


class _Checking:
    """The two requests of one server; more only where a repeat reads less."""

    def __init__(self, engine: "OpenAICompat", law: CacheLaw) -> None:
        self.engine, self.law = engine, law
        self.start = law.shared_start_tokens
        if isinstance(engine.counter, ServerCounter):
            self.start = max(self.start, shared_prefix(engine.counter, _chat("a", 4), _chat("b", 4)))

    def run(self) -> tuple[bool, str]:
        """Return whether the law holds, and what was seen."""
        from kvlab.errors import KvlabError

        try:
            text = self._text()
        except KvlabError as error:
            return False, f"no prompt could be made to check it: {' '.join(str(error).split())[:200]}"
        if text is None:
            return False, "no prompt that the model's context holds is ever a hit, so it cannot be checked"
        length, read, why = self._ask(text, "law_check_cold")
        if length is None or read is None:
            return False, why
        mine = self.law.predict(length, self.start) + self.law.chance_tokens
        if read > mine:
            return False, f"a prompt of {length:,} tokens that nobody has sent read {read:,}"
        for _ in range(_REPEATS):
            length, again, why = self._ask(text, "law_check_repeat")
            if length is None or again is None:
                return False, why
            wanted = self.law.full_hit(length)
            if again >= wanted:
                break
        if again != wanted:
            return False, f"a repeat of {length:,} tokens read {again:,}, where {wanted:,} are predicted"
        n, tokens = len(self.engine.opening), sum(r.evidence.prompt_tokens or 0 for r in self.engine.opening)
        return True, (
            f"of {length:,} tokens, {read:,} were cached at first and {again:,} of its repeat, as predicted; "
            f"{n} requests, {tokens:,} prompt tokens"
        )

    def _text(self) -> str | None:
        """Return a text of a length just below a step, at which a repeat is a hit; ``None``: there is none."""
        wanted = self._length()
        if wanted is None:
            return None
        marker, words = secrets.token_hex(8), wanted
        for _ in range(3):
            off = self.engine.counter(_chat(marker, words)) - wanted
            if not off or words - off < 1:
                break
            words -= off
        return _words(marker, words)

    def _length(self) -> int | None:
        """Return a length of a prime number of steps and nearly one more: there, few other laws read the same.

        A smaller step reads more of it, and a multiple of the step reads less.
        """
        law, room = self.law, self.engine.identity.max_model_len or _MOST_TOKENS
        least = max(_FEWEST_TOKENS, self.start + 1) // law.grain_tokens
        most = min(20_000, (room - 16) // law.grain_tokens)
        primes = (
            n for n in range(3 + law.grains_off, most) if n >= least and all(n % d for d in range(2, n))
        )
        # A long step may not fit the context so often: then as often as it does.
        for steps in itertools.chain(primes, range(2 + law.grains_off, 0, -1)):
            length = (steps + 1) * law.grain_tokens + law.always_computed_tokens - 1
            if length <= room - 16 and law.full_hit(length) > law.predict(length, self.start):
                return length
        return None

    def _ask(self, text: str, arm: str) -> tuple[int | None, int | None, str]:
        """Return a request's prompt tokens and cached tokens, or why they are not known."""
        from kvlab.endpoints.openai import Call

        request_id = f"law-check-{secrets.token_hex(6)}"
        prompt = {"messages": [{"role": "user", "content": text}]}
        decoding = {"max_tokens": 1, "temperature": 0}
        call = Call(request_id, arm, prompt, decoding, shared_tokens=self.start, measured=False)
        row: Recorded = self.engine.ask(call)
        self.engine.opening.append(replace(row, expected=True))
        failure = None if row.was_read else row.measurement.failure
        if failure is not None:
            return (
                None,
                None,
                f"a request failed: {failure.error_type}: {' '.join(failure.message.split())[:120]}",
            )
        label = classify(row.evidence, None)
        return row.evidence.prompt_tokens, label.cached_tokens, label.reason


def _chat(marker: str, words: int) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": _words(marker, words)}]}


def _words(marker: str, words: int) -> str:
    """Return a text of so many plain words, which are about a token each."""
    plain = _SENTENCE * (words // len(_SENTENCE) + 1)
    return " ".join([marker, *plain[:words]])
