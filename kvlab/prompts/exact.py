"""Cut a text so that the prompt around it has exactly so many tokens.

Tokens cannot be cut from a text directly: a chat template adds some, and a tokenizer merges
across the cut. So the prompt itself is counted: the longest cut that is not too long is found by
regula falsi and bisection on words, and the few tokens that are left are filled with a word that
is one token.
"""

import re
from collections.abc import Callable

from kvlab.endpoints.counter import Counter, Prompt
from kvlab.errors import InputError

_FILLERS = (" a", " x", ".", " the", "a")


def fit(build: Callable[[str], Prompt], text: str, target_tokens: int, counter: Counter) -> Prompt:
    """Return ``build(cut)`` for the cut of ``text`` that gives ``target_tokens``.

    Args:
        build: Makes the prompt around a cut.
        text: Long enough to reach the target.
        target_tokens: The whole prompt's length, as ``counter`` counts it.
        counter: An exact one gives a prompt of exactly the target; a tokenizer in which none of
            the fillers is one token may leave it a token or more short.

    Raises:
        InputError: The text is too short for the target, or the prompt without it is too long.
    """
    words = re.findall(r"\S+\s*", text)
    low, high = 0, len(words)
    low_count, high_count = counter(build("")), counter(build(text))
    if low_count > target_tokens:
        fix = f"is below the {low_count} tokens of the prompt without its document; raise it"
        raise InputError("token_targets", target_tokens, fix)
    if high_count < target_tokens:
        fix = f"is above the {high_count} tokens of the whole document; raise manual_sections"
        raise InputError("token_targets", target_tokens, fix)
    step = 0
    while high - low > 1 and low_count < target_tokens:
        share = (target_tokens - low_count) / max(1, high_count - low_count)
        guess = low + round(share * (high - low)) if step % 3 < 2 else (low + high) // 2
        middle = min(max(guess, low + 1), high - 1)
        count = counter(build("".join(words[:middle])))
        if count <= target_tokens:
            low, low_count = middle, count
        else:
            high, high_count = middle, count
        step += 1
    return _fill(build, "".join(words[:low]).rstrip(), target_tokens, counter)


def _fill(build: Callable[[str], Prompt], text: str, target_tokens: int, counter: Counter) -> Prompt:
    best, best_short = build(text), target_tokens - counter(build(text))
    for filler in _FILLERS:
        copies = 0
        for _ in range(4):
            prompt = build(text + filler * copies)
            short = target_tokens - counter(prompt)
            if short == 0:
                return prompt
            if 0 < short < best_short:
                best, best_short = prompt, short
            copies = max(0, copies + short)
    return best
