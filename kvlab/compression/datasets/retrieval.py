"""What is hidden in the haystack and asked about: five tasks in the manner of RULER.

RULER (Hsieh et al. 2024, "RULER: What's the Real Context Size of Your Long-Context Language
Models?") varies the needle-in-a-haystack test: one needle, needles with other keys as distractors,
several values of one key, several keys asked at once, and chains of variables that take their value
from one another. The wording here is kvlab's own.
"""

import itertools
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

_ADJECTIVES = (
    "amber", "brass", "crimson", "dusty", "emerald", "frosted", "golden", "hollow", "ivory", "jagged", "keen",
    "lavender", "marble", "narrow", "olive", "painted", "quiet", "rusty", "silver", "tall", "velvet", "wooden",
)  # fmt: skip
_NOUNS = (
    "anchor", "barrel", "candle", "drum", "engine", "falcon", "garden", "hammer", "island", "jacket", "kettle",
    "lantern", "mirror", "needle", "oven", "piano", "quill", "rocket", "saddle", "tunnel", "umbrella", "wagon",
)  # fmt: skip
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
VALUES, QUERIES, DISTRACTORS, CHAIN = 4, 4, 3, 4

#: Room for one value (a space, five digits, a full stop), and for a list of four with their keys.
_ONE_VALUE_TOKENS, _MANY_VALUES_TOKENS = 16, 64


class Puzzle(NamedTuple):
    """Needles, and what is asked about them.

    Attributes:
        needles: Sentences to hide, in an order that the context keeps.
        question: What is asked after the context.
        answers: All of them must be in the answer.
        answer_prefix: The beginning of the answer that the model is given.
        answer_pattern: Matches any answer of the right form.
        max_new_tokens: Room for the answer.
    """

    needles: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    answer_prefix: str
    answer_pattern: str
    max_new_tokens: int


def single_needle(draw: random.Random) -> Puzzle:
    """One code, one question."""
    return _one_of(draw, distractors=0)


def multi_key(draw: random.Random) -> Puzzle:
    """One code is asked for, others of other keys stand around it."""
    return _one_of(draw, distractors=DISTRACTORS)


def multi_value(draw: random.Random) -> Puzzle:
    """One key with several codes, all of which are asked for."""
    key, values = _keys(draw, 1)[0], _codes(draw, VALUES)
    needles = tuple(f"One of the secret codes of the {key} is {value}." for value in values)
    question = f"What are all {VALUES} secret codes of the {key} that the text mentions?"
    return _numbers(needles, question, values, f"The {VALUES} secret codes of the {key} are:\n1.")


def multi_query(draw: random.Random) -> Puzzle:
    """Several keys with a code each, all of which are asked for."""
    keys, values = _keys(draw, QUERIES), _codes(draw, QUERIES)
    names = ", ".join(f"the {key}" for key in keys[:-1]) + f" and the {keys[-1]}"
    question = f"What are the secret codes of {names} that the text mentions?"
    # Small models answer with a list or not at all: the prefix begins one, and names no key.
    return _numbers(_needles(keys, values), question, values, "The secret codes are:\n- The")


def variable_tracking(draw: random.Random) -> Puzzle:
    """A chain of variables, each set to the one before it; which of them hold the first one's number?"""
    names = tuple("".join(draw.sample(_LETTERS, 4)) for _ in range(2 * CHAIN))
    (value, other), chain, decoy = _codes(draw, 2), names[:CHAIN], names[CHAIN:]
    lines = [line for pair in zip(_chain(chain, value), _chain(decoy, other), strict=True) for line in pair]
    question = f"Which {CHAIN} variables hold the number {value}, directly or through other variables?"
    prefix = f"The {CHAIN} variables that hold the number {value} are"
    return Puzzle(tuple(lines), question, chain, prefix, r"[A-Z]{4}", _MANY_VALUES_TOKENS)


TASKS: Mapping[str, Callable[[random.Random], Puzzle]] = {
    "single_needle": single_needle,
    "multi_key": multi_key,
    "multi_value": multi_value,
    "multi_query": multi_query,
    "variable_tracking": variable_tracking,
}


def _one_of(draw: random.Random, *, distractors: int) -> Puzzle:
    keys, values = _keys(draw, 1 + distractors), _codes(draw, 1 + distractors)
    asked = draw.randrange(len(keys))
    question = f"What is the secret code of the {keys[asked]} that the text mentions?"
    prefix = f"The secret code of the {keys[asked]} is"
    needles, answer = _needles(keys, values), (values[asked],)
    return Puzzle(needles, question, answer, prefix, r"\d", _ONE_VALUE_TOKENS)


def _numbers(needles: tuple[str, ...], question: str, values: tuple[str, ...], prefix: str) -> Puzzle:
    return Puzzle(needles, question, values, prefix, r"\d", _MANY_VALUES_TOKENS)


def _needles(keys: tuple[str, ...], values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"The secret code of the {key} is {value}." for key, value in zip(keys, values, strict=True))


def _keys(draw: random.Random, number: int) -> tuple[str, ...]:
    adjectives, nouns = draw.sample(_ADJECTIVES, number), draw.sample(_NOUNS, number)
    return tuple(f"{adjective} {noun}" for adjective, noun in zip(adjectives, nouns, strict=True))


def _codes(draw: random.Random, number: int) -> tuple[str, ...]:
    return tuple(str(code) for code in draw.sample(range(10_000, 100_000), number))


def _chain(names: tuple[str, ...], value: str) -> list[str]:
    first = f"The variable {names[0]} is set to {value}."
    rest = [
        f"The variable {name} is set to the value of {before}." for before, name in itertools.pairwise(names)
    ]
    return [first, *rest]
