"""A conversation that can grow for as long as one likes, with facts at its very start.

Exchange i is the same in every context of a run, so a longer context begins with the shorter one
and a prefix cache serves what they share. The facts stand in the system message, before everything:
whoever loses the beginning of the context loses them first.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from kvlab.prompts import manual

Growth = Literal["conversation", "documents"]
Message = dict[str, str]

SYSTEM = "{mark} is the SESSION_PREFIX_HASH. You are the clerk of a works. {facts}Answer in one sentence."
FACT = "The access code of the {place} is {code}. "
QUESTION = "What is the access code of the {place}? Answer with the code alone."
#: Generated for one answer.
ANSWER_TOKENS = 12
ANSWER_PREFIX = "The access code of the {place} is"
PLACES = ("archive", "boathouse", "cellar", "depot", "engine room", "foundry", "gatehouse", "harbour office")

_PARTS = (
    "intake valve",
    "relief valve",
    "coolant pump",
    "bearing housing",
    "drive coupling",
    "heat exchanger",
)
_SIGNS = (
    "vibrates",
    "runs hot",
    "leaks at the seal",
    "is louder than before",
    "reads too low",
    "starts slowly",
)
_STEPS = ("inspect", "lubricate", "tighten", "replace", "calibrate", "drain", "flush", "isolate", "align")


def codes(seed: int, count: int) -> dict[str, str]:
    """Return place → code, the same for the same seed."""
    draw = random.Random(f"codes {seed}")  # noqa: S311 - prose, not cryptography
    return {place: str(draw.randrange(1000, 10_000)) for place in PLACES[:count]}


def system(mark: str, needles: int, seed: int) -> Message:
    """Return the system message with the marker and the facts."""
    facts = "".join(FACT.format(place=place, code=code) for place, code in codes(seed, needles).items())
    return {"role": "system", "content": SYSTEM.format(mark=mark, facts=facts)}


def exchange(growth: Growth, seed: int, index: int) -> tuple[Message, Message]:
    """Return exchange ``index``: a request and its answer, about 100 tokens, or 400 with a document."""
    draw = random.Random(f"{seed} {index}")  # noqa: S311 - prose, not cryptography
    part, sign, first, then = draw.choice(_PARTS), draw.choice(_SIGNS), *draw.sample(_STEPS, 2)
    number, hours, torque = draw.randrange(1, 60), draw.randrange(50, 5000, 50), draw.randrange(4, 90)
    ask = (
        f"Request {index + 1}: the {part} of line {number} {sign} since the last shift, and the log names no "
        "cause. What is to be done first, and how often is it to be looked at afterwards?"
    )
    if growth == "documents":
        ask = f"Manual {index + 1}:\n{manual.manual(seed + index, 6, f'M{index + 1}')}\n\n{ask}"
    reply = (
        f"{first.capitalize()} the {part} of line {number} first and then {then} what it is bolted to, at most "
        f"{torque} newton metres. Look at it again every {hours} hours and write the reading into the log."
    )
    return {"role": "user", "content": ask}, {"role": "assistant", "content": reply}


def history(growth: Growth, seed: int, count: int, first: int = 0) -> list[Message]:
    """Return ``count`` exchanges from number ``first`` on, as messages."""
    return [message for index in range(first, first + count) for message in exchange(growth, seed, index)]


def conversation(mark: str, needles: int, growth: Growth, seed: int, count: int) -> list[Message]:
    """Return the system message, ``count`` exchanges and the next request."""
    asked = exchange(growth, seed, count)[0]
    return [system(mark, needles, seed), *history(growth, seed, count), asked]


def question(mark: str, needles: int, growth: Growth, seed: int, count: int, place: str) -> list[Message]:
    """Return the system message, ``count`` exchanges and the question after one of the facts."""
    asked = {"role": "user", "content": QUESTION.format(place=place)}
    return [system(mark, needles, seed), *history(growth, seed, count), asked]


def is_answered(text: str, code: str) -> bool:
    """Whether an answer names the code."""
    return code in text


def template_hash() -> str:
    """Return a hash of everything that makes the prompts."""
    shown: Sequence[Mapping[str, Any] | str] = [
        *conversation("MARK", 2, "conversation", 1, 2),
        *conversation("MARK", 2, "documents", 1, 2),
        QUESTION,
        ANSWER_PREFIX,
    ]
    return manual.digest(*shown)
