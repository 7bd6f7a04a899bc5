"""What was sent and answered in a trial, in the database: the memory of a run that goes on.

An intent is stored before a prompt is sent, its answer after the request itself is stored. An intent
without an answer was lost (a kill, a failure): its prompt may be in the server's cache, so it is asked
again only where that cannot change the answer; else the trial begins a new *life*, with other tokens.
"""

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from kvlab.laws.probe import Answer, PromptSpec
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    from kvlab.experiments.cache_laws.params import CacheLawsParams
    from kvlab.session import Session

SENT, ANSWERED, OUTCOME = "probe_sent", "probe_cached_tokens", "outcome"


class NewLifeError(Exception):
    """A prompt that was lost cannot be asked again."""


@dataclass
class Log:
    """The probes of one trial.

    Attributes:
        life: Number of the present life.
        number: Of the next probe, over all lives.
        answers: Of this life, in order, each with its prompt.
        variants: Which variant of a prompt was answered, where that is not the first.
        lost: How often a prompt was sent without an answer, in this life.
    """

    session: "Session[CacheLawsParams]"
    trial: Trial
    life: int = 0
    number: int = 0
    answers: list[tuple[PromptSpec, Answer]] = field(default_factory=list)
    variants: dict[PromptSpec, int] = field(default_factory=dict)
    lost: Counter[PromptSpec] = field(default_factory=Counter)

    @classmethod
    def read(cls, session: "Session[CacheLawsParams]", trial: Trial) -> "Log":
        """Return what is stored of a trial."""
        log = cls(session, trial)
        query = "SELECT name, text FROM observations WHERE trial_id = ? AND name IN (?, ?) ORDER BY observation_id"
        for name, text in session.database.sql.execute(query, (trial.trial_id, SENT, ANSWERED)).fetchall():
            row = json.loads(text)
            if row["life"] != log.life:
                log.begin(row["life"])
            spec = PromptSpec(**row["spec"])
            log.number = max(log.number, row["number"] + 1)
            if name == SENT:
                log.lost[spec] += 1
            else:
                log.lost[spec] -= 1
                log.answers.append((spec, Answer(**row["answer"])))
                log.variants[spec] = row["variant"]
        log.lost = +log.lost
        return log

    def begin(self, life: int | None = None) -> None:
        """Begin a new life."""
        if life is None:
            self.number += 1  # what was sent last in the old one keeps its number
        self.life = self.life + 1 if life is None else life
        self.answers, self.variants, self.lost = [], {}, Counter()

    @property
    def tag(self) -> str:
        """What makes the tokens of this life its own."""
        return f"{self.session.run.isolation_id}/{self.trial.trial_id}/{self.life}"

    def variant(self, spec: PromptSpec) -> int:
        """Return which variant of a prompt to send.

        Raises:
            NewLifeError: It was lost, and is a text that others share: asked again, it would read itself.
        """
        if spec in self.variants:
            return self.variants[spec]
        if not self.lost[spec]:
            return 0
        held = max((s.shared_tokens for s, _ in self.answers if _base(s) == _base(spec)), default=0)
        if spec.own_tokens > spec.shared_tokens and spec.shared_tokens <= held and self.lost[spec] <= 3:
            return self.lost[spec]
        raise NewLifeError

    def sent(self, spec: PromptSpec, request_id: str) -> None:
        """Store that a prompt is about to be sent."""
        self.lost[spec] += 1
        self._observe(SENT, None, request_id, self._row(spec))

    def answered(
        self, spec: PromptSpec, variant: int, answer: Answer, row: Recorded, held: int | None = None
    ) -> None:
        """Store what came back; ``held``: what the engine's own events said was cached just before."""
        self.lost[spec] -= 1
        content = {**self._row(spec), "variant": variant, "answer": asdict(answer)}
        if held is not None:
            content["held_tokens"] = held
        self._observe(ANSWERED, answer.cached_tokens, row.request_id, content)
        self.answers.append((spec, answer))
        self.variants[spec] = variant
        self.number += 1

    def ended(self, outcome: dict[str, Any]) -> None:
        """Store what the learner said."""
        text = json.dumps(outcome, allow_nan=False)
        self.session.database.observe(self.trial.trial_id, OUTCOME, None, text=text)

    def _row(self, spec: PromptSpec) -> dict[str, Any]:
        return {"life": self.life, "number": self.number, "spec": asdict(spec)}

    def _observe(self, name: str, value: float | None, request_id: str, content: dict[str, Any]) -> None:
        # The request itself is not stored yet when its intent is: the id stands in the text.
        text = json.dumps({**content, "request_id": request_id})
        self.session.database.observe(self.trial.trial_id, name, value, text=text)


def _base(spec: PromptSpec) -> tuple[int, str | None]:
    return spec.base, spec.tenant


def stored_outcome(session: "Session[Any]", part: str) -> dict[str, Any] | None:
    """Return what was found out by a part of this run; ``None``: nothing so far."""
    query = (
        "SELECT text FROM observations WHERE trial_id = ? AND name = ? ORDER BY observation_id DESC LIMIT 1"
    )
    row = session.database.sql.execute(query, (part, OUTCOME)).fetchone()
    return None if row is None else json.loads(row[0])
