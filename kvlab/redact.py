"""Taking secrets out of text that comes from outside, before it is cut, stored or shown.

A server may echo the key it was sent: whole, cut somewhere, inside of JSON, in an address, or in
base64. So each form is looked for, and of a long key every piece of `PIECE` characters, too. Cutting
first would leave a piece that no comparison with the whole finds.
"""

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

MARK = "[redacted]"
#: From how many characters on a key's pieces are looked for, and how long a piece is.
LONG, PIECE = 12, 8
_STEP = 4
#: A key this short is looked for only where it is said to be a key: as a word it could be anything.
_TINY = 4
#: What stands behind a text that was cut: dots, quotes and brackets.
_AFTER_A_CUT = "….'\")] "
_PLACEHOLDERS = frozenset((
    "empty", "none", "null", "dummy", "test", "token", "key", "no-key", "nokey", "not-needed", "ollama",
    "lm-studio", "vllm", "local", "sk-no-key-required", "x", "xxx", "-",
))  # fmt: skip


def is_placeholder(secret: str) -> bool:
    """Whether a "secret" is one of the words that stand for none; taking them out would garble messages."""
    return secret.strip().lower() in _PLACEHOLDERS or not secret.strip()


class Redactor:
    """Takes some secrets out of texts. Holds them: never store or print one."""

    def __init__(self, secrets: Iterable[str]) -> None:
        kept = [secret for secret in secrets if not is_placeholder(secret)]
        self._rules = [rule for secret in kept for rule in _rules(secret)]
        self._long = [form for secret in kept if len(secret) >= LONG for form in _forms(secret)]
        # Any piece holds one of these whole: most texts hold none, and need not be searched character by character.
        self._hints = {
            form[at : at + PIECE - _STEP + 1]
            for secret in kept
            if len(secret) >= LONG
            for form in _forms(secret)
            for at in range(0, len(form) - PIECE + _STEP, _STEP)
        }
        self._pieces = {
            piece
            for secret in kept
            if len(secret) >= LONG
            for form in _forms(secret)
            for piece in _split(form)
        }

    def __repr__(self) -> str:
        return "Redactor(…)"

    def __call__(self, text: str) -> str:
        """Return ``text`` without the secrets."""
        for rule in self._rules:
            text = rule(text)
        text = self._without_pieces(text) if any(hint in text for hint in self._hints) else text
        return self._without_beginning(text)

    def _without_beginning(self, text: str) -> str:
        """Return a text that does not end in the beginning of a key: where somebody else has cut it before."""
        end = text.rstrip(_AFTER_A_CUT)
        for form in self._long:
            for size in range(PIECE - 1, _TINY - 1, -1):
                if end.endswith(form[:size]):
                    return f"{end[:-size]}{MARK}{text[len(end) :]}"
        return text

    def value(self, found: Any) -> Any:  # noqa: ANN401 - JSON
        """Return a JSON value with every text in it redacted, its names too."""
        if isinstance(found, str):
            return self(found)
        if isinstance(found, Mapping):
            return {
                self(key) if isinstance(key, str) else key: self.value(item) for key, item in found.items()
            }
        if isinstance(found, list | tuple):
            return [self.value(item) for item in found]
        return found

    def _without_pieces(self, text: str) -> str:
        parts, kept, at = list[str](), 0, 0
        while at <= len(text) - PIECE:
            if text[at : at + PIECE] not in self._pieces:
                at += 1
                continue
            parts += [text[kept:at], MARK]
            while at <= len(text) - PIECE and text[at : at + PIECE] in self._pieces:
                at += 1
            at = kept = at + PIECE - 1
        return "".join((*parts, text[kept:])).replace(MARK + MARK, MARK) if parts else text


def _rules(secret: str) -> Iterator[Callable[[str], str]]:
    """Yield what to do to a text for each form of a secret, the longest form first."""
    if len(secret) < _TINY:
        named_as_key = re.compile(
            rf"((?:bearer|api[ _-]?key|authorization)\W{{1,5}}){re.escape(secret)}(?!\w)", re.I
        )
        yield lambda text: named_as_key.sub(rf"\1{MARK}", text)
        return
    if len(secret) < PIECE:  # a word of its own, or "1234" would go out of "12345 tokens"
        word = re.compile(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])")
        yield lambda text: word.sub(MARK, text)
        return
    for form in sorted(_forms(secret), key=len, reverse=True):
        yield lambda text, form=form: text.replace(form, MARK)  # type: ignore[misc]


def _forms(secret: str) -> set[str]:
    """Return the ways in which a secret is written: itself, in JSON, percent-encoded, in base64 at any offset."""
    data = secret.encode()
    forms = {secret, json.dumps(secret)[1:-1], quote(secret), quote(secret, safe=""), quote_plus(secret)}
    if len(secret) >= PIECE:
        for before in range(3):  # "Bearer KEY" and "user:KEY" put it at another offset of the three bytes
            coded = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
            inner = coded[(0, 2, 3)[before] : len(coded) - 1]  # what the neighbours do not change
            forms |= {inner, inner.translate(str.maketrans("+/", "-_"))}
    return forms


def _split(form: str) -> Iterator[str]:
    for start in range(len(form) - PIECE + 1):
        yield form[start : start + PIECE]
