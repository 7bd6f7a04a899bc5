"""A check with a role, and the one judge that makes a verdict of checks, for all experiments."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from pydantic import AliasChoices, BaseModel, Field

#: ``proof``: must be true, or there is no answer. ``criterion``: broken means FAIL, unknown means no answer.
#: ``power``: an interval that is too wide means no answer. ``note``: shown, but no part of the verdict.
Role = Literal["proof", "criterion", "power", "note"]


class Verdict(StrEnum):
    """``INVALID``: no answer can be given: the cache states are not proven, or the data are too few."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INVALID = "INVALID"


class Check(BaseModel, frozen=True, serialize_by_alias=True):
    """One condition of the verdict.

    Attributes:
        name: What the check is called, in ``summary.json`` and the report.
        asks: What must be true.
        seen: What was observed.
        passed: Whether it is true; ``None``: unknown. In ``summary.json`` its key is ``holds``.
        role: What it means for the verdict (`Role`).
        optional: An unknown answer does not stand in the way of PASS; it is still reported.
        advice: What to do where it does not hold: it becomes the report's "What to do next".
        reason: What the verdict says where it does not hold, in place of the standard sentence.
    """

    name: str
    asks: str
    seen: str
    # A file that others read keeps its key.
    passed: bool | None = Field(validation_alias=AliasChoices("passed", "holds"), serialization_alias="holds")
    role: Role = "criterion"
    optional: bool = False
    advice: str = ""
    reason: str = ""

    @property
    def title(self) -> str:
        """The name in words."""
        words = self.name.replace("_", " ").strip()
        return (words[:1].upper() + words[1:]).replace("Ttft", "TTFT")

    @property
    def broken(self) -> str:
        """Why this check stands in the way of PASS."""
        if self.reason:
            return self.reason
        word = {"proof": "", "power": "underpowered: "}.get(
            self.role, "not met: " if self.passed is False else "unknown: "
        )
        return f"{word}{self.asks}: {self.seen}" + (f"; {self.advice}" if self.advice else "")

    @property
    def shown(self) -> str:
        """What a PASS says of it."""
        unknown = "unknown: " if self.passed is None else ""
        return f"{unknown}{self.asks}: {self.seen}"

    def _repr_html_(self) -> str:
        from kvlab.report import cards  # only where it is shown

        return cards.check(self)


def judge(checks: Sequence[Check]) -> tuple[Verdict, list[str]]:
    """Return the verdict and its reasons.

    In this order: an unproven proof gives INVALID, a broken criterion FAIL, an unknown criterion or a
    lack of power INVALID; what is left is PASS. Without any proof or criterion there is no answer.
    """
    verdict, blocking = in_the_way(checks)
    if blocking:
        return verdict, [check.broken for check in blocking]
    if verdict is Verdict.INVALID:
        return verdict, ["nothing was measured that the verdict could rest on"]
    return verdict, [check.shown for check in checks if check.role != "note"]


def in_the_way(checks: Sequence[Check]) -> tuple[Verdict, list[Check]]:
    """Return the verdict, and the checks that stand in the way of PASS; there may be none of an empty run."""

    def those(role: Role, *states: bool | None) -> list[Check]:
        return [
            check
            for check in checks
            if check.role == role and check.passed in states and not (check.optional and check.passed is None)
        ]

    for verdict, found in (
        (Verdict.INVALID, those("proof", False, None)),
        (Verdict.FAIL, those("criterion", False)),
        (Verdict.INVALID, those("criterion", None) + those("power", False, None)),
    ):
        if found:
            return verdict, found
    judged = [check for check in checks if check.role != "note"]
    return (Verdict.PASS if any(check.passed for check in judged) else Verdict.INVALID), []
