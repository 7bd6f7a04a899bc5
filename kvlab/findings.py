"""What an experiment found: checks with a verdict, numbers, tables and pictures; one module for all experiments.

An experiment returns `Findings`: values, no drawing and no writing. The verdict is not the experiment's
to choose: `kvlab.verdict.judge` derives it from the role of each check, the same way everywhere.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, PrivateAttr

from kvlab.brief import RUN_AGAIN, Brief, steps, unsaid
from kvlab.verdict import Check as Check
from kvlab.verdict import Role as Role
from kvlab.verdict import Verdict as Verdict
from kvlab.verdict import in_the_way as in_the_way
from kvlab.verdict import judge as judge

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

#: What a further file holds, or what makes that when the file is written: a picture takes half a second to draw.
File = str | bytes | Callable[[], bytes]


@dataclass(frozen=True)
class Table:
    """A table of the report, also written as ``<name>.csv``.

    Attributes:
        name: The file's name without its ending.
        title: Its heading.
        rows: A frame, or mappings of column to value, in order; missing values are shown as dashes.
        columns: Their order where ``rows`` are mappings, which may be none.
        note: One or two sentences below it.
        digits: Decimal places by column; other floats keep what they have.
        headers: What the report calls a column, where `kvlab.report.headers` would choose badly.
        made_by: The function that made it, as ``module.function``; found by itself.
        evidence: Whether it holds what was measured one by one, behind the numbers.
    """

    name: str
    title: str
    rows: "pd.DataFrame | Iterable[Mapping[str, Any]]"
    columns: Sequence[str] = ()
    note: str = ""
    digits: Mapping[str, int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    made_by: str = ""
    evidence: bool = False

    def __post_init__(self) -> None:
        """Note who made it: ``kvlab.load(…).where(column)`` names the function."""
        if not self.made_by:
            caller = sys._getframe(2)
            function = caller.f_code.co_qualname.partition(".<locals>")[0]
            name = f"{caller.f_globals.get('__name__')}.{function}"
            object.__setattr__(self, "made_by", name)

    def frame(self) -> "pd.DataFrame":
        """Return it as a frame, rounded (`digits`)."""
        stored = self.stored()
        import pandas as pd

        return pd.DataFrame(stored.rows, columns=stored.columns)

    def _repr_html_(self) -> str:
        from kvlab.report.headers import readable  # only where it is shown

        return readable(self)._repr_html_()

    def stored(self) -> "StoredTable":
        """Return it as JSON can hold it: plain numbers, ``None`` where missing, rounded."""
        import pandas as pd  # takes a while, and a command that reports nothing need not wait

        if isinstance(self.rows, pd.DataFrame):
            frame = self.rows
        else:
            frame = pd.DataFrame(list(self.rows), columns=list(self.columns) or None, dtype=object)
        names = [str(name) for name in frame.columns]
        cells = [
            [plain(value, self.digits.get(name)) for name, value in zip(names, row, strict=True)]
            for row in frame.itertuples(index=False, name=None)
        ]
        return StoredTable(
            name=self.name,
            title=self.title,
            columns=names,
            rows=cells,
            note=self.note,
            headers=dict(self.headers),
            made_by=self.made_by,
            evidence=self.evidence,
        )


def plain(value: Any, digits: int | None = None) -> Any:  # noqa: ANN401 - a cell
    """Return a value as JSON has it: no numpy number, no NaN; floats rounded to ``digits``."""
    import pandas as pd

    if isinstance(value, Mapping):
        return {str(key): plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, digits) for item in value]
    if value is None or pd.isna(value):
        return None
    if hasattr(value, "item"):
        value = value.item()
    return round(value, digits) if isinstance(value, float) and digits is not None else value


@dataclass(frozen=True)
class Picture:
    """A figure of the report, ``plots/<name>.png`` and ``.svg``: what is said of it, and what draws it.

    One that is ``empty`` has nothing to show: a notebook may draw it, and the report leaves it out.
    """

    name: str
    title: str
    caption: str
    draw: "Callable[[], Figure]"
    empty: bool = False

    def _repr_png_(self) -> bytes:
        from kvlab.report.figures import png  # with matplotlib, only where it is shown

        return png(self.draw())


class Section(BaseModel):
    """A part of the report in the experiment's own order; tables and pictures are given by their names."""

    title: str
    paragraphs: list[str] = []
    tables: list[str] = []
    figures: list[str] = []


class StoredTable(BaseModel):
    """A table as the report renders it."""

    name: str
    title: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""
    headers: dict[str, str] = {}
    made_by: str = ""
    evidence: bool = False


class StoredFigure(BaseModel):
    """A picture as the report renders it."""

    name: str
    title: str
    caption: str


class Summary(BaseModel):
    """Everything that a report says, as data. ``summary.json`` is this without tables, figures and sections.

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
    tables: list[StoredTable] = []
    figures: list[StoredFigure] = []
    limitations: list[str] = []
    sections: list[Section] = []
    brief: Brief | None = None
    next: list[str] = []
    _folder: Path | None = PrivateAttr(None)
    _shown: object = PrivateAttr(None)

    @property
    def other_reasons(self) -> list[str]:
        """The reasons that the checks do not hold already."""
        held = {line for check in self.checks for line in (check.shown, check.broken)}
        return [reason for reason in self.reasons if reason not in held]

    @property
    def first(self) -> Brief:
        """What is said first; of an analysis that was stored without it, the headline and how many checks hold."""
        return self.brief or unsaid(self.headline, self.checks)

    def written_in(self, folder: Path) -> "Summary":
        """Return it, knowing its run folder, so that a notebook shows links to the report."""
        self._folder = folder
        return self

    def _repr_html_(self) -> str:
        from kvlab.report import badge  # only where it is shown

        return badge.html(self, self._folder)

    def __repr__(self) -> str:
        return f"<{self.experiment} {self.verdict}: {self.headline}>"

    def shown_already(self) -> None:
        """Remember that the cell that is running has shown it: as that cell's value it is not shown again."""
        self._shown = _running_cell()

    def _ipython_display_(self) -> None:
        if self._shown is not None and self._shown == _running_cell():
            return
        from IPython.display import display

        data = {"text/html": self._repr_html_(), "text/plain": f"{self.verdict}: {self.headline}"}
        display(data, raw=True)  # type: ignore[no-untyped-call]

    def as_json(self) -> dict[str, Any]:
        """Return the content of ``summary.json``."""
        shown = {"checks": {"__all__": {"optional", "advice", "reason"}}}
        content: dict[str, Any] = self.model_dump(
            mode="json",
            exclude={
                "tables": True,
                "figures": True,
                "sections": True,
                "brief": {"then", "before_all"},
                **shown,
            },
        )
        return content


def _running_cell() -> object:
    """Return what tells the cell that is running from others; ``None``: there is none."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "execution_count", None)


@dataclass(frozen=True)
class Findings:
    """Everything that an experiment says about its data, as values.

    Attributes:
        headline: One sentence: what came out, in the words of the field.
        brief: What is said first: one plain sentence, the figure that matters, what to do with a PASS.
        checks: What the verdict rests on (`judge`).
        results: The numbers of ``summary.json``, by name.
        remarks: Further sentences below the reasons of the verdict.
        first_reasons: Sentences above them.
        limitations: What this cannot say.
        sections: The order of the report, where it is not "all pictures, then all tables".
        files: Further files of the run folder by name, for other programs to read.
        judges_failures: Whether the checks say themselves what failed requests mean, as a batch's do; else a bound
            on them is added (`kvlab.conclude`).
        derived: Rows by name of the table of the database that they replace, for those who read that.
    """

    headline: str
    checks: Sequence[Check]
    results: Mapping[str, Any]
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    remarks: Sequence[str] = ()
    first_reasons: Sequence[str] = ()
    limitations: Sequence[str] = ()
    sections: Sequence[Section] = ()
    files: Mapping[str, File] = field(default_factory=dict)
    judges_failures: bool = False
    derived: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    brief: Brief | None = None

    @property
    def verdict(self) -> Verdict:
        """PASS, FAIL or INVALID."""
        return judge(self.checks)[0]

    def _repr_html_(self) -> str:
        from kvlab.report import badge  # only where it is shown

        return badge.html(self.summary("", ""))

    def table(self, name: str) -> Table:
        """Return a table by its name.

        Raises:
            KeyError: There is none, in this run; the message names those there are.
        """
        table: Table = _named(self.tables, name)
        return table

    def picture(self, name: str) -> Picture:
        """Return a picture by its name.

        Raises:
            KeyError: There is none, in this run; the message names those there are.
        """
        picture: Picture = _named(self.pictures, name)
        return picture

    def summary(self, experiment: str, profile: str) -> Summary:
        """Return all of it as data, with the verdict."""
        verdict, reasons = judge(self.checks)
        brief = self.brief or unsaid(self.headline, self.checks)
        blocking = in_the_way(self.checks)[1]
        then = brief.then if verdict is Verdict.PASS else [RUN_AGAIN]
        return Summary(
            experiment=experiment,
            profile=profile,
            verdict=verdict,
            headline=self.headline,
            reasons=[*self.first_reasons, *reasons, *self.remarks],
            checks=[check.model_copy(update={"passed": plain(check.passed)}) for check in self.checks],
            results=plain(self.results),
            tables=[table.stored() for table in self.tables],
            figures=[
                StoredFigure(name=item.name, title=item.title, caption=item.caption)
                for item in self.pictures
                if not item.empty
            ],
            limitations=list(self.limitations),
            sections=list(self.sections),
            brief=brief,
            next=steps([], brief.before_all) or steps(blocking, then),
        )


def _named(items: Sequence[Any], name: str) -> Any:  # noqa: ANN401 - tables or pictures
    for item in items:
        if item.name == name:
            return item
    raise KeyError(f"{name}: this run has {', '.join(item.name for item in items) or 'none'}")
