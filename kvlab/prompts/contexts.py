"""Contexts of an exact number of tokens, as token ids.

Token ids can be cut anywhere and put together without merging across the seams, so ``[A, B, Q]``
begins with exactly the tokens of ``[A, B]``, and every part has exactly its planned length.
"""

from collections.abc import Callable

from kvlab.prompts import manual

#: Text to token ids, without special tokens.
Encode = Callable[[str], list[int]]


def context(encode: Encode, head: str, tokens: int, *, seed: int) -> list[int]:
    """Return a context of exactly ``tokens`` tokens.

    Args:
        encode: The engine's tokenizer.
        head: Comes first of all, so that contexts of different heads differ in their first block.
        tokens: Its length.
        seed: Of the text.
    """
    sections, ids = 1 + tokens // 32, list[int]()
    while len(ids) < tokens:
        ids = encode(f"{head}\n{manual.manual(seed, sections, head)}\n")
        sections *= 2
    return ids[:tokens]
