"""Every size that was tried, written before it is tried.

A probe may end the process that makes it. What is in the database then is its size without an
outcome, and that is how a resumed run knows what not to do again.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome
from kvlab.store.database import Database, to_json

ENDPOINT, QUALITY = "endpoint", "quality"


@dataclass(frozen=True)
class Probe:
    """One size that was tried.

    Attributes:
        target: ``endpoint``, ``quality``, or the precision of a child process.
        tokens: Length of the context; the server's own count where it gave one, else what it probably is.
        chosen_by: Why this length: growth, bisection, the stated maximum.
        outcome: ``None`` while it is being tried.
        detail: Whatever else was seen, by name.
    """

    probe_id: int
    session_id: int
    trial_id: str
    target: str
    tokens: int
    chosen_by: str
    outcome: ProbeOutcome | None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether the context was held."""
        return self.outcome is ProbeOutcome.HELD

    @property
    def size(self) -> int:
        """What two probes of a target are compared by: characters where tokens can only be guessed, else tokens."""
        return int(self.detail.get("characters", self.tokens))


class Ledger:
    """The probes of a run's database.

    Args:
        database: Open for writing.
        session_id: Of this start or resume. What an earlier one left without an outcome gets
            ``run_ended``.
    """

    def __init__(self, database: Database, session_id: int) -> None:
        self._database, self._session_id = database, session_id
        with database.transaction():
            database.sql.execute(
                "UPDATE context_probes SET outcome = ? WHERE outcome IS NULL AND session_id < ?",
                (str(ProbeOutcome.RUN_ENDED), session_id),
            )

    def begin(self, trial_id: str, target: str, tokens: int, chosen_by: str, **detail: Any) -> int:  # noqa: ANN401
        """Write down what is about to be tried, durably. Returns the probe's id."""
        with self._database.transaction():
            self._database.insert(
                "context_probes",
                session_id=self._session_id,
                trial_id=trial_id,
                target=target,
                tokens=tokens,
                chosen_by=chosen_by,
                detail_json=to_json(detail),
            )
            return int(self._database.sql.execute("SELECT last_insert_rowid()").fetchone()[0])

    def end(self, probe_id: int, outcome: ProbeOutcome, *, tokens: int | None = None, **detail: Any) -> None:  # noqa: ANN401
        """Write down what became of it; ``tokens``: how long it turned out to be."""
        with self._database.transaction():
            query = "SELECT detail_json FROM context_probes WHERE probe_id = ?"
            known = json.loads(self._database.sql.execute(query, (probe_id,)).fetchone()[0])
            self._database.sql.execute(
                "UPDATE context_probes SET outcome = ?, detail_json = ?, tokens = coalesce(?, tokens) "
                "WHERE probe_id = ?",
                (str(outcome), to_json({**known, **detail}), tokens, probe_id),
            )

    def withdraw(self, probe_id: int) -> None:
        """Forget a probe that says nothing about its size: it was not really tried."""
        with self._database.transaction():
            self._database.sql.execute("DELETE FROM context_probes WHERE probe_id = ?", (probe_id,))

    def probes(self, target: str | None = None) -> list[Probe]:
        """Return the probes in the order in which they were tried."""
        return [found for found in read(self._database.sql) if target in (None, found.target)]


def read(sql: sqlite3.Connection) -> list[Probe]:
    """Return all probes of a database in the order in which they were tried."""
    names = "probe_id, session_id, trial_id, target, tokens, chosen_by, outcome, detail_json"
    rows = sql.execute(f"SELECT {names} FROM context_probes ORDER BY probe_id")  # noqa: S608 - names above
    found = []
    for *row, outcome, detail in rows:
        made = dict(zip(names.split(", "), row, strict=False))
        found.append(
            Probe(
                **made, outcome=None if outcome is None else ProbeOutcome(outcome), detail=json.loads(detail)
            )
        )
    return found


def counts_only_computed(probes: Iterable[Probe]) -> bool:
    """Whether a server was seen to count only the tokens of a prompt that were not in its cache."""
    return any(probe.detail.get("counts") == "computed" for probe in probes)
