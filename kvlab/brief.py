"""What a report says first: one plain sentence, the one figure that matters, and what to do next."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from kvlab.findings import Check
    from kvlab.stats import Interval

#: What to do where nothing was measured.
RUN_AGAIN = (
    "`kvlab doctor` says whether the endpoint answers; then go on with this run: `kvlab run` with `--resume`"
)


class KeyFigure(BaseModel, frozen=True):
    """The one figure that matters.

    Attributes:
        value: With its unit, as it is shown: ``86.7 %``.
        label: What it is, in a few words.
        interval: Its interval with level, method and n; or why there is none; or what it was counted over.
    """

    value: str
    label: str
    interval: str = ""


class Brief(BaseModel, frozen=True):
    """What somebody must know who reads no further.

    Attributes:
        sentence: What came out, in words that need no glossary.
        figure: The one figure that matters.
        picture: The name of the picture that shows it.
        then: What to do with a PASS: the next experiment, or the file to use. What to do otherwise follows from
            the checks that stand in the way (`steps`).
        before_all: What to do before all else, in place of what the checks advise: nothing was measured.
    """

    sentence: str
    figure: KeyFigure
    picture: str = ""
    then: list[str] = []
    before_all: list[str] = []


def steps(blocking: Iterable["Check"], then: Iterable[str]) -> list[str]:
    """Return what to do next: the advice of the checks in the way; where none is, what the result is good for."""
    found = [check.advice or f"look into “{check.title}”: {check.seen}" for check in blocking]
    sentences = found or list(then)
    return list(dict.fromkeys(sentence[:1].upper() + sentence[1:] for sentence in sentences))


def in_the_way(blocking: Sequence["Check"], words: Mapping[str, str], *, unknown: str, broken: str) -> str:
    """Return a sentence about the first check that stands in the way.

    Args:
        blocking: What stands in the way; at least one.
        words: What a check in the way means, by its name; else its own name is said.
        unknown: How the sentence begins where it is not known whether the check holds.
        broken: How it begins where the check does not hold.
    """
    first = blocking[0]
    begin = broken if first.passed is False else unknown
    return f"{begin}: {words.get(first.name, f'{first.title.lower()} ({first.seen})')}."


def with_interval(interval: "Interval", of: str) -> str:
    """Return the ends of an interval with how it was made; ``of`` formats an end, such as ``{:.1%}``."""
    if interval.low is None or interval.high is None:
        return f"no interval: {interval.reason}" if interval.reason else ""
    return f"{of.format(interval.low)} to {of.format(interval.high)} ({interval.made_by})"


def unsaid(headline: str, checks: Sequence["Check"]) -> Brief:
    """Return what is said first of an experiment that does not say so itself: its headline, and how many checks hold."""
    judged = [check for check in checks if check.role != "note"]
    holding = sum(check.passed is True for check in judged)
    return Brief(
        sentence=headline[:1].upper() + headline[1:],
        figure=KeyFigure(value=f"{holding} of {len(judged)}", label="checks hold"),
        then=["read the numbers below"],
    )
