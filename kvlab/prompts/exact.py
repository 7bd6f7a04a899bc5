"""Cut a text so that the prompt around it has exactly so many tokens.

Tokens cannot be cut from a text directly: a chat template adds some, and a tokenizer merges
across the cut. So the prompt itself is counted: the longest cut that is not too long is found by
regula falsi and bisection on words, and the few tokens that are left are filled with a word that
is one token.

Where the server does not tokenize, the count is an estimate: `calibrate` then lets the server read the
document itself, and corrects the estimate by what it reports (secant steps).
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvlab.endpoints.counter import CalibratedCounter, Counter, Prompt
from kvlab.errors import InputError

_FILLERS = (" a", " x", ".", " the", "a", " 1", "\n")
_STEPS = 4


class Fitted(NamedTuple):
    """A prompt that was cut to a length.

    Attributes:
        prompt: As a request body carries it.
        off_tokens: How far its count is from the target; 0: none.
        exact: Whether that count is the server's own.
    """

    prompt: Prompt
    off_tokens: int
    exact: bool


class Names(NamedTuple):
    """What a caller calls the two things that can be wrong, for messages.

    Attributes:
        target: The length that was asked for.
        text: What makes the text longer.
    """

    target: str
    text: str


def fit(
    build: Callable[[str], Prompt], text: str, target_tokens: int, counter: Counter, names: Names
) -> Fitted:
    """Return ``build(cut)`` for the cut of ``text`` that gives ``target_tokens``.

    Args:
        build: Makes the prompt around a cut.
        text: Long enough to reach the target.
        target_tokens: The whole prompt's length, as ``counter`` counts it.
        counter: In a tokenizer in which none of the fillers is one token, the prompt may be a token or
            more short; ``off_tokens`` says so.
        names: Of the parameters, for messages.

    Raises:
        InputError: The text is too short for the target, or the prompt without it is too long.
    """
    words = re.findall(r"\S+\s*", text)
    low, high = 0, len(words)
    low_count, high_count = counter(build("")), counter(build(text))
    if low_count > target_tokens:
        fix = f"is below the {low_count} tokens of the prompt without its document; raise it"
        raise InputError(names.target, target_tokens, fix)
    if high_count < target_tokens:
        fix = f"is above the {high_count} tokens of the whole document; raise {names.text}"
        raise InputError(names.target, target_tokens, fix)
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


def _fill(build: Callable[[str], Prompt], text: str, target_tokens: int, counter: Counter) -> Fitted:
    best = build(text)
    best_off = counter(best) - target_tokens
    for filler in _FILLERS:
        copies = 0
        for _ in range(4):
            prompt = build(text + filler * copies)
            off = counter(prompt) - target_tokens
            if best_off < off <= 0:  # never above: the target may be all that the context holds
                best, best_off = prompt, off
            if off == 0:
                return Fitted(prompt, 0, counter.exact)
            copies = max(0, copies - off)
    return Fitted(best, best_off, counter.exact)


def calibrate(
    build: Callable[[str], Prompt], text: str, targets: Sequence[int], counter: Counter, names: Names
) -> None:
    """Let the server read the document at the shortest and the longest target, where it cannot tokenize.

    Each of up to four steps asks for a cut and corrects the estimate by the count that comes back: the
    secant method. Nothing is asked of a server that tokenizes.

    Args:
        build: Makes the prompt around a cut, under a marker that nothing else uses: it is in the cache then.
        text: The document.
        targets: Lengths that prompts will have.
        counter: Is corrected.
        names: Of the parameters, for messages.

    Raises:
        InputError: As `fit`.
    """
    if not isinstance(counter, CalibratedCounter):
        return
    for target in sorted({min(targets), max(targets)}):
        for _ in range(_STEPS):
            found = counter.measure(fit(build, text, target, counter, names).prompt)
            if found is None or abs(found - target) <= max(1, target // 500):
                break
