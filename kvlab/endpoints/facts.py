"""A fact about a server, with the observation behind it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from kvlab.report.shown import Shown


class Fact(BaseModel):
    """Something a server can or cannot do; ``None``: not found out. ``why`` says how we know."""

    holds: bool | None = None
    why: str = "not asked"


def as_table(facts: Mapping[str, Fact]) -> "Shown":
    """Return facts by name: whether each holds, and how that is known."""
    from kvlab.report.shown import Shown  # takes a while

    rows = [(fact.holds, fact.why) for fact in facts.values()]
    return Shown(rows, index=list(facts), columns=["holds", "how we know"], dtype=object)
