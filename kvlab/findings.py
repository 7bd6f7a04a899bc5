"""What an experiment found: a verdict with its grounds, figures with intervals, tables."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel


class Verdict(StrEnum):
    """``INVALID``: no answer can be given: the cache states are not proven, or the pairs are too few."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    FAIL = "FAIL"
    INVALID = "INVALID"


class Check(BaseModel):
    """One criterion: what it asks, what was seen, whether it holds; ``None``: cannot be said."""

    name: str
    asks: str
    seen: str
    holds: bool | None


class Table(BaseModel):
    """A table of the report, also written as ``<name>.csv``; ``None`` is shown as a dash."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""


class Figure(BaseModel):
    """A picture of the report: ``plots/<name>.png``."""

    name: str
    title: str
    caption: str


class Section(BaseModel):
    """A part of the report in the experiment's own order; tables and figures are given by their names."""

    title: str
    paragraphs: list[str] = []
    tables: list[str] = []
    figures: list[str] = []


class Summary(BaseModel):
    """Everything that a report says, as data. ``summary.json`` is this without the tables.

    Where there are ``sections``, the report follows them; a table or figure that none of them names
    stands behind the last.
    """

    experiment: str
    profile: str
    verdict: Verdict
    headline: str
    reasons: list[str]
    checks: list[Check]
    results: dict[str, Any]
    tables: list[Table] = []
    figures: list[Figure] = []
    limitations: list[str] = []
    sections: list[Section] = []

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``summary.json``."""
        return self.model_dump(mode="json", exclude={"tables", "figures", "sections"})
