"""What is done in one trial: the experiment as it was written, and the one that proves its states.

As written: [A, B] goes into the cache once; then every hit asks the same [A, B, Q], every miss the
same [B, Q], and nothing is ever emptied. So the first miss puts [B, Q] into the cache, and every
later one finds it there.

Verified: each measurement has a preparation of its own. The cache is told to empty itself; contexts
that no other measurement has are made, with a marker in their first block, so that even a reset
that failed could not serve them; [A, B] is put into the cache; then the measured prompt is one of

- hit: [A, B, Q], whose whole blocks of [A, B] must be read from the cache,
- miss: [B, Q], the question as it was put, on a prompt that is shorter than the hit's,
- miss of the same length: [A', B, Q], with another A, so that nothing but the cache differs.

All three are prepared alike, so that what the engine has just done differs in nothing either.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvlab.endpoints.offline import Call
from kvlab.errors import InputError
from kvlab.experiment import Measuring
from kvlab.experiments.prefix_hit_miss import trials
from kvlab.experiments.prefix_hit_miss.trials import Planned, arm
from kvlab.prompts import contexts, manual
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams
    from kvlab.session import Session

QUESTION = f"\n\nQuestion: {manual.QUESTION}\nAnswer:"
#: Room for the question in any tokenizer, so that sizes can be checked before one is loaded.
QUESTION_TOKENS_AT_MOST = 64


@dataclass(frozen=True)
class Step:
    """One generation of a trial.

    Attributes:
        kind: Which of the trial's requests it is (`trials`).
        ids: The prompt's tokens.
        max_tokens: How many are generated.
        prefix_tokens: Leading tokens that were put into the cache on purpose.
        reset: Whether the cache is told to empty itself first.
        settle: Whether a pause follows.
        measured: Whether it is a row of ``requests.csv``.
    """

    kind: str
    ids: list[int]
    max_tokens: int
    prefix_tokens: int | None = None
    reset: bool = False
    settle: bool = False
    measured: bool = True


def measure_trial(session: "Session[PrefixHitMissParams]", trial: Trial) -> Measuring:
    """Do one trial from its beginning."""
    planned = Planned(**trial.planned)
    written = planned.procedure == trials.AS_WRITTEN
    rows: list[Recorded] = []
    for step in as_written(session, planned) if written else verified(session, trial):
        name = arm(planned.condition, step.kind)
        row = session.engine.generate(
            Call(
                request_id=session.request_id(trial, name),
                arm=name,
                token_ids=step.ids,
                max_tokens=step.max_tokens,
                prefix_tokens=step.prefix_tokens,
                reset=session.engine.reset() if step.reset else None,
                attempt=session.attempt,
                measured=step.measured,
            )
        )
        yield row
        rows.append(row)
        if step.settle:
            time.sleep(session.params.settle_ms / 1e3)
    return _line(rows)


def _line(rows: list[Recorded]) -> str:
    """Return the trial's TTFT with the evidence behind it."""
    row = next((row for row in rows if row.arm.endswith(f"/{trials.TTFT}")), rows[-1])
    stamps, label = row.measurement.stamps, row.label
    taken = stamps.latency_ms if stamps.ttft_ms is None else stamps.ttft_ms
    again = ", after a new warm-up" if rows[0].arm.endswith(f"/{trials.REWARM}") else ""
    return f"{taken:.0f} ms, {label.cached_tokens} of {row.evidence.prompt_tokens} tokens cached{again}"


def question(session: "Session[PrefixHitMissParams]") -> list[int]:
    """Return the tokens of Q.

    Raises:
        InputError: This model's tokenizer makes too many of it.
    """
    ids: list[int] = session.engine.counter.encode(QUESTION)
    if len(ids) > QUESTION_TOKENS_AT_MOST:
        fix = (
            f"makes {len(ids)} tokens of the question, more than {QUESTION_TOKENS_AT_MOST}; use another model"
        )
        raise InputError("KVLAB_MODEL", session.identity.model, fix)
    return ids


def as_written(session: "Session[PrefixHitMissParams]", planned: Planned) -> list[Step]:
    """Return the steps of the procedure as it was written; the same prompts in every trial.

    The contexts of each (A, B) are its own: as it was written, each has a process of its own. A
    process that finds its cache without [A, B], since the run was resumed, warms up again first.
    """
    params = session.params
    own = f"of {planned.size_a} and {planned.size_b} tokens"
    a = _context(session, f"Context A {own}", planned.size_a)
    b = _context(session, f"Context B {own}", planned.size_b)
    warm = Step(trials.WARMUP, a + b, params.warmup_tokens, settle=True)
    if planned.condition == trials.WARMUP:
        return [warm]
    hit = planned.condition == trials.HIT
    ids, prefix = (a + b + question(session), len(a + b)) if hit else (b + question(session), None)
    steps = [
        Step(trials.TTFT, ids, 1, prefix, settle=True),
        Step(trials.THROUGHPUT, ids, params.max_output_tokens, prefix),
    ]
    if session.engine.has_seen(warm.ids):
        return steps
    return [Step(trials.REWARM, warm.ids, params.warmup_tokens, settle=True, measured=False), *steps]


def verified(session: "Session[PrefixHitMissParams]", trial: Trial) -> list[Step]:
    """Return the steps of a trial in which every state is prepared, and shown."""
    planned = Planned(**trial.planned)
    steps = _prepared(session, planned, session.tag(trial), trials.TTFT, 1)
    steps += _prepared(
        session, planned, session.tag(trial), trials.THROUGHPUT, session.params.max_output_tokens
    )
    if planned.condition == trials.HIT:
        # The very tokens of the hit again, cold: under greedy decoding the answer must be the same.
        steps.append(Step(trials.REFERENCE, steps[-1].ids, steps[-1].max_tokens, reset=True))
    return steps


def _prepared(
    session: "Session[PrefixHitMissParams]", planned: Planned, tag: str, kind: str, max_tokens: int
) -> list[Step]:
    """Return a measurement and what prepares it, on contexts that only these two share."""

    def fresh(role: str, size: int) -> list[int]:
        return _context(session, manual.marker(session.run.isolation_id, f"{tag}/{kind}/{role}"), size)

    a, b = fresh("A", planned.size_a), fresh("B", planned.size_b)
    ids = {
        trials.HIT: a + b,
        trials.MISS: b,
        trials.SAME_LENGTH: fresh("A'", planned.size_a) + b,
    }[planned.condition] + question(session)
    prefix = len(a + b) if planned.condition == trials.HIT else None
    prime = Step(f"{trials.PRIME}_{kind}", a + b, session.params.warmup_tokens, reset=True, settle=True)
    return [prime, Step(kind, ids, max_tokens, prefix)]


def _context(session: "Session[PrefixHitMissParams]", head: str, tokens: int) -> list[int]:
    return contexts.context(session.engine.counter.encode, head, tokens, seed=session.params.text_seed)


def template_hash() -> str:
    """Return a hash of what makes the prompts."""
    letters = contexts.context(lambda text: list(text.encode()), "HEAD", 4000, seed=0)
    return manual.digest(QUESTION, letters)
