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
from kvlab.experiments.prefix_hit_miss import plan
from kvlab.experiments.prefix_hit_miss.plan import Planned, arm
from kvlab.prompts import contexts, manual
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams
    from kvlab.session import Lab

QUESTION = f"\n\nQuestion: {manual.QUESTION}\nAnswer:"
#: Room for the question in any tokenizer, so that sizes can be checked before one is loaded.
QUESTION_TOKENS_AT_MOST = 64


@dataclass(frozen=True)
class Step:
    """One generation of a trial.

    Attributes:
        kind: Which of the trial's requests it is (`plan`).
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


def attempt(lab: "Lab[PrefixHitMissParams]", trial: Trial, number: int) -> list[Recorded]:
    """Do one trial from its beginning; stop at the first failure."""
    planned = Planned(**trial.planned)
    steps = as_written(lab, planned) if planned.procedure == plan.AS_WRITTEN else verified(lab, trial, number)
    rows: list[Recorded] = []
    for step in steps:
        name = arm(planned.condition, step.kind)
        call = Call(
            request_id=f"{lab.run.experiment_id}/{lab.tag(trial, number)}/{name}",
            arm=name,
            token_ids=step.ids,
            max_tokens=step.max_tokens,
            prefix_tokens=step.prefix_tokens,
            reset=lab.engine.reset() if step.reset else None,
            attempt=number,
            measured=step.measured,
        )
        rows.append(lab.engine.generate(call))
        if not rows[-1].ok:
            break
        if step.settle:
            time.sleep(lab.params.settle_ms / 1e3)
    return rows


def question(lab: "Lab[PrefixHitMissParams]") -> list[int]:
    """Return the tokens of Q.

    Raises:
        InputError: This model's tokenizer makes too many of it.
    """
    ids: list[int] = lab.engine.counter.encode(QUESTION)
    if len(ids) > QUESTION_TOKENS_AT_MOST:
        fix = (
            f"makes {len(ids)} tokens of the question, more than {QUESTION_TOKENS_AT_MOST}; use another model"
        )
        raise InputError("KVLAB_MODEL", lab.identity.model, fix)
    return ids


def as_written(lab: "Lab[PrefixHitMissParams]", planned: Planned) -> list[Step]:
    """Return the steps of the procedure as it was written; the same prompts in every trial.

    The contexts of each (A, B) are its own: as it was written, each has a process of its own. A
    process that finds its cache without [A, B], since the run was resumed, warms up again first.
    """
    params = lab.params
    own = f"of {planned.size_a} and {planned.size_b} tokens"
    a = _context(lab, f"Context A {own}", planned.size_a)
    b = _context(lab, f"Context B {own}", planned.size_b)
    warm = Step(plan.WARMUP, a + b, params.warmup_tokens, settle=True)
    if planned.condition == plan.WARMUP:
        return [warm]
    hit = planned.condition == plan.HIT
    ids, prefix = (a + b + question(lab), len(a + b)) if hit else (b + question(lab), None)
    steps = [
        Step(plan.TTFT, ids, 1, prefix, settle=True),
        Step(plan.THROUGHPUT, ids, params.max_output_tokens, prefix),
    ]
    if lab.engine.has_seen(warm.ids):
        return steps
    return [Step(plan.REWARM, warm.ids, params.warmup_tokens, settle=True, measured=False), *steps]


def verified(lab: "Lab[PrefixHitMissParams]", trial: Trial, number: int) -> list[Step]:
    """Return the steps of a trial in which every state is prepared, and shown."""
    planned = Planned(**trial.planned)
    steps = _prepared(lab, planned, lab.tag(trial, number), plan.TTFT, 1)
    steps += _prepared(lab, planned, lab.tag(trial, number), plan.THROUGHPUT, lab.params.max_output_tokens)
    if planned.condition == plan.HIT:
        # The very tokens of the hit again, cold: under greedy decoding the answer must be the same.
        steps.append(Step(plan.REFERENCE, steps[-1].ids, steps[-1].max_tokens, reset=True))
    return steps


def _prepared(
    lab: "Lab[PrefixHitMissParams]", planned: Planned, tag: str, kind: str, max_tokens: int
) -> list[Step]:
    """Return a measurement and what prepares it, on contexts that only these two share."""

    def fresh(role: str, size: int) -> list[int]:
        return _context(lab, manual.marker(lab.run.isolation_id, f"{tag}/{kind}/{role}"), size)

    a, b = fresh("A", planned.size_a), fresh("B", planned.size_b)
    ids = {
        plan.HIT: a + b,
        plan.MISS: b,
        plan.SAME_LENGTH: fresh("A'", planned.size_a) + b,
    }[planned.condition] + question(lab)
    prefix = len(a + b) if planned.condition == plan.HIT else None
    prime = Step(f"{plan.PRIME}_{kind}", a + b, lab.params.warmup_tokens, reset=True, settle=True)
    return [prime, Step(kind, ids, max_tokens, prefix)]


def _context(lab: "Lab[PrefixHitMissParams]", head: str, tokens: int) -> list[int]:
    return contexts.context(lab.engine.counter.encode, head, tokens, seed=lab.params.text_seed)


def template_hash() -> str:
    """Return a hash of what makes the prompts."""
    letters = contexts.context(lambda text: list(text.encode()), "HEAD", 4000, seed=0)
    return manual.digest(QUESTION, letters)
