"""What an attack came to: how often it was tried, and everything that must not have happened."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

#: What is counted beside ``tried``; anything but 0 fails.
HARMS = {
    "lost": "printed as done, and not in the database",
    "doubled": "requests sent twice under one name, items answered twice, trials done that were printed again",
    "tracebacks": "exceptions that nobody has worded",
    "hangs": "longer than any deadline allows",
    "canary": "bytes of the key in files or output",
    "left": "processes, locks and temporary files left behind",
    "untrue": "a status, a label or an outcome that is not what happened; a cold request that was not cold",
}
_NOTES = 40


@dataclass
class Counts:
    """One row of the table. ``notes`` says what each harm was, for the first ones."""

    name: str
    tried: int = 0
    lost: int = 0
    doubled: int = 0
    tracebacks: int = 0
    hangs: int = 0
    canary: int = 0
    left: int = 0
    untrue: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    #: What was looked at, by name: so many lines, requests, pairs. A check that saw nothing shows here.
    seen: dict[str, int] = field(default_factory=dict)
    #: Whether time ran out before all was tried.
    short: bool = False

    def harm(self, kind: str, what: str, times: int = 1) -> None:
        """Count something that must not happen."""
        if times <= 0:
            return
        setattr(self, kind, getattr(self, kind) + times)
        if len(self.notes) < _NOTES:
            self.notes.append(f"{kind} ({self.name}): {what}"[:1500])

    def ran_out(self, what: str) -> None:
        """Note that not all was tried: what was not is not shown to be well."""
        self.short = True
        self.notes.append(f"time ran out ({self.name}): {what}")

    def see(self, **what: int) -> None:
        """Add to what was looked at."""
        for name, times in what.items():
            self.seen[name] = self.seen.get(name, 0) + times

    @property
    def harms(self) -> dict[str, int]:
        """Each harm's count."""
        return {kind: getattr(self, kind) for kind in HARMS}

    @property
    def is_bad(self) -> bool:
        """Whether anything happened that must not, or not all was tried."""
        return self.tried == 0 or self.short or any(self.harms.values())

    def add(self, other: Counts) -> None:
        """Take another's counts in."""
        self.tried += other.tried
        self.seconds += other.seconds
        self.short |= other.short
        for kind in HARMS:
            setattr(self, kind, getattr(self, kind) + getattr(other, kind))
        self.notes = [*self.notes, *other.notes]
        self.see(**other.seen)

    def to_line(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(asdict(self))


def read_lines(text: str) -> Iterator[Counts]:
    """Yield the counts that a part has printed, one a line."""
    for line in text.splitlines():
        if line.startswith('{"name"'):
            yield Counts(**json.loads(line))


def total(rows: Iterable[Counts]) -> Counts:
    """Return all rows as one."""
    found = Counts("all")
    for row in rows:
        found.add(row)
    return found
