"""A tokenizer that anybody can predict: one token for each word (of at most 8 letters) or sign."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from zlib import crc32

# The last branch keeps trailing whitespace, so that decoding gives the text back.
_PIECE = re.compile(r"\s*\w{1,8}|\s*[^\w\s]|\s+$")
VOCABULARY_SIZE = 2**31

# Generated text: short words, so that re-tokenizing an answer (as the next turn of a conversation
# does) yields the generated ids. Two of them are not ASCII: readers must survive split UTF-8.
_TEXT = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa "
    "quebec romeo sierra tango uniform victor whiskey xray yankee zulu amber basalt cedar dune ember fjord "
    "grove harbor island jungle kelp lagoon meadow nebula orchard prairie quartz river summit tundra umbra "
    "valley willow xenon yarrow zenith café naïve"
)
WORDS = _TEXT.split()


class Tokenizer:
    """Text to stable 31-bit ids and, for ids that it has seen, back."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._pieces: dict[int, str] = {}

    def piece_id(self, piece: str) -> int:
        """The id of one piece; the same in every process."""
        known = self._ids.get(piece)
        if known is None:
            known = crc32(piece.encode()) & 0x7FFFFFFF
            self._ids[piece] = known
            self._pieces[known] = piece
        return known

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        piece_id = self.piece_id
        return [piece_id(piece) for piece in _PIECE.findall(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text; ids never seen show as <id>."""
        return "".join(self.piece(token) for token in ids)

    def piece(self, token: int) -> str:
        """The text of one id."""
        return self._pieces.get(token) or f"<{token}>"

    def chat(
        self,
        messages: list[dict[str, Any]],
        *,
        prefix_tokens: int = 0,
        message_tokens: int = 0,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
    ) -> list[int]:
        """Ids of a conversation in ChatML, after `prefix_tokens` fixed ids."""
        start, end, newline = (self.piece_id(p) for p in ("<|im_start|>", "<|im_end|>", "\n"))
        ids = [self.piece_id(f"<|prefix_{i}|>") for i in range(prefix_tokens)]
        for message in messages:
            ids += [start, *self.encode(message["role"]), newline, *[newline] * message_tokens]
            ids += [*self.encode(content_text(message.get("content"))), end, newline]
        if continue_final_message:
            return ids[:-2]
        if add_generation_prompt:
            ids += [start, *self.encode("assistant"), newline]
        return ids


def content_text(content: str | list[dict[str, Any]] | None) -> str:
    """The text of a message's content, which may come in parts."""
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""
