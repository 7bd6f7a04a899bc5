"""Asking an example in this process: one prefill, and every budget out of it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from weakref import WeakSet

from kvlab.compression import policies
from kvlab.compression.datasets import Example, Manifest
from kvlab.compression.datasets.template import render, token_ids
from kvlab.compression.datasets.tokenizer import Tokenizer
from kvlab.compression.policies import Budget
from kvlab.endpoints.metrics import ServerView
from kvlab.evidence import CacheLabel, CacheState, Evidence
from kvlab.experiments.kv_budget_transition import arms, prepared, refine, store
from kvlab.experiments.kv_budget_transition.arms import Arm
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.records import KVKept, Recorded, Trial
from kvlab.timing.request import Measurement
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation as Answer

if TYPE_CHECKING:
    from kvlab.compression.engine import Generation, KvEngine
    from kvlab.session import Lab

FROM_TENSORS = "the cache's own tensors, after pruning"
#: Engines that have made their first timed call.
_WARM: "WeakSet[KvEngine]" = WeakSet()
#: Phases with a prefill of their own; all the others share one.
_APART = (arms.NOISE_FLOOR, arms.NO_CONTEXT)
NO_PREFIX_CACHE = "no prefix cache takes part: this process computes the context itself, once for all budgets"


def check_budgets(params: KVBudgetTransitionParams, manifest: Manifest) -> None:
    """Refuse a budget that the policy cannot honour on some context.

    Raises:
        InputError: Naming the policy, the budget, and the smallest that works.
    """
    policy = policies.get(params.kv.policy)
    for length, tail in sizes(params, manifest):
        for budget in params.kv.budgets:
            policy.check(Budget.of(budget), length, tail)


def sizes(params: KVBudgetTransitionParams, manifest: Manifest) -> Iterator[tuple[int, int]]:
    """Yield for each example the tokens of its context, and of the tail that the policy has in view."""
    if params.kv.query_mode != "aware":
        yield from ((entry.token_len, 0) for entry in manifest.entries)
        return
    tokenizer = prepared.tokenizer(params)
    for entry, example in manifest.items():  # the tail alone: a context takes its time
        yield (
            entry.token_len,
            len(token_ids(render(example, manifest.prompt_template), tokenizer, context=False)[1]),
        )


def attempt(lab: "Lab[KVBudgetTransitionParams]", trial: Trial, number: int) -> list[Recorded]:
    """Ask one example under the arms of its round, for the ``number``-th time."""
    params = lab.params
    example = example_of(params, trial)
    if trial.planned["timed"]:
        return _numbered(_timed(lab, trial, example), number)
    chosen = arms.planned(params, trial.ordinal)
    if round_number := int(trial.planned["round"]):
        budget = refine.budget_of(lab.run.database, params, round_number, _floor(lab))
        if budget is None:
            return []
        chosen = arms.added(params, budget)
    return _numbered(_swept(lab, trial, example, chosen), number)


def _numbered(rows: list[Recorded], number: int) -> list[Recorded]:
    """Return the rows of a further attempt under ids of their own."""
    if number == 1:
        return rows
    return [replace(row, attempt=number, request_id=f"{row.request_id}/{number}") for row in rows]


def _floor(lab: "Lab[KVBudgetTransitionParams]") -> float:
    """Return the smallest fraction that the policy can honour on every context."""
    policy, manifest = policies.get(lab.params.kv.policy), prepared.manifest(lab.params)
    return max((policy.smallest(tail) + 1) / length for length, tail in sizes(lab.params, manifest))


def example_of(params: KVBudgetTransitionParams, trial: Trial) -> Example:
    """Return what a trial asks."""
    wanted = trial.planned["example_id"]
    return next(example for entry, example in prepared.manifest(params).items() if entry.example_id == wanted)


def _ids(
    lab: "Lab[KVBudgetTransitionParams]", example: Example, *, context: bool
) -> tuple[list[int], list[int]]:
    """Return the tokens before and after the cut; without a context the first token stands before it."""
    manifest = prepared.manifest(lab.params)
    tokenizer = Tokenizer.wrap(lab.engine.tokenizer, manifest.tokenizer.name)
    head, tail = token_ids(render(example, manifest.prompt_template), tokenizer, context=context)
    return (head, tail) if head else (tail[:1], tail[1:])


def _limit(lab: "Lab[KVBudgetTransitionParams]", example: Example) -> int:
    return prepared.answer_limit(lab.params, example)


def _swept(
    lab: "Lab[KVBudgetTransitionParams]", trial: Trial, example: Example, chosen: Sequence[Arm]
) -> list[Recorded]:
    """Prefill once, and generate all arms: those of one policy together, as the engine sees fit.

    Budget 1.0 once more is prefilled once more: out of the same cache, it could show no noise of the prefill.
    """
    engine: KvEngine = lab.engine
    rows: list[Recorded] = []
    for phase in (None, *_APART):
        here = [arm for arm in chosen if (arm.phase if arm.phase in _APART else None) == phase]
        if not here:
            continue
        context, anew = phase != arms.NO_CONTEXT, phase == arms.NOISE_FLOOR
        head, tail = _ids(lab, example, context=context)
        names = sorted({arm.policy_id for arm in here})
        # What the question-less control asks is compressed by nobody.
        mode = lab.params.kv.query_mode if context else "agnostic"
        sent_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        chosen_policies = [policies.get(name) for name in names]
        prefilled = engine.prefill(head, tail, mode, chosen_policies, anew=anew)
        for name in names:
            group = [arm for arm in here if arm.policy_id == name]
            budgets = [Budget.of(arm.budget) for arm in group]
            made = engine.generate(prefilled, policies.get(name), budgets, _limit(lab, example))
            rows += [
                _recorded(lab, trial, example, arm, one, (head, tail), sent_utc)
                for arm, one in zip(group, made, strict=True)
            ]
    store.ensure_runs(lab.run.database, lab.run.run_id, chosen)
    return rows


def _timed(lab: "Lab[KVBudgetTransitionParams]", trial: Trial, example: Example) -> list[Recorded]:
    """Measure each budget alone, prefill included; the first call of all is thrown away, as warm-up."""
    engine: KvEngine = lab.engine
    policy, chosen = policies.get(lab.params.kv.policy), arms.timed(lab.params)
    head, tail = _ids(lab, example, context=True)
    mode, limit = lab.params.kv.query_mode, _limit(lab, example)
    engine.states.clear()  # their memory would be in the way of the peak's
    if engine not in _WARM:
        engine.timed(head, tail, mode, policy, Budget.of(chosen[0].budget), 1)
        _WARM.add(engine)
    rows = []
    for arm in chosen:
        sent_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        made = engine.timed(head, tail, mode, policy, Budget.of(arm.budget), limit)
        rows.append(_recorded(lab, trial, example, arm, made, (head, tail), sent_utc))
    store.ensure_runs(lab.run.database, lab.run.run_id, chosen)
    return rows


def _recorded(
    lab: "Lab[KVBudgetTransitionParams]",
    trial: Trial,
    example: Example,
    arm: Arm,
    made: "Generation",
    ids: tuple[list[int], list[int]],
    sent_utc: str,
) -> Recorded:
    prompt_tokens = made.n_context + made.n_tail
    return Recorded(
        request_id=f"{lab.run.experiment_id}/{trial.trial_id}/{arm.name}",
        arm=arm.name,
        attempt=1,
        prompt={"context_ids": ids[0], "tail_ids": ids[1]},
        decoding={"max_tokens": _limit(lab, example), "temperature": 0.0, "batch_size": made.batch_size},
        target_tokens=None,
        sent_utc=sent_utc,
        measurement=_measurement(made, prompt_tokens),
        server=ServerView(reason=made.timing_reason or "measured in this process"),
        evidence=Evidence(prompt_tokens),
        label=CacheLabel(CacheState.UNVERIFIED, None, None, None, NO_PREFIX_CACHE),
        run_id=f"{lab.run.run_id}/{arm.run_name}",
        example_id=example.example_id,
        phase=arm.phase,
        kv=KVKept(
            policy_id=arm.policy_id,
            budget=arm.budget,
            n_context=made.n_context,
            n_planned=made.budget.n_kept(made.n_context),
            n_kept=tuple(made.n_kept_by_layer),
            cache_bytes=made.cache_bytes,
            peak_memory_bytes=made.peak_memory_bytes,
            memory_reason=made.memory_reason,
            evidence=FROM_TENSORS,
        ),
    )


def _measurement(made: "Generation", prompt_tokens: int) -> Measurement:
    last = made.token_ns[-1] if made.token_ns else None
    stamps = Stamps(
        sent_ns=made.sent_ns,
        first_token_ns=made.first_token_ns,
        first_content_ns=made.first_token_ns,
        last_token_ns=last,
        done_ns=made.done_ns,
        token_ns=made.token_ns,
    )
    if made.error is not None:
        return Measurement(stamps, failure=made.error)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": len(made.token_ids),
        "completion_token_ids": list(made.token_ids),
    }
    return Measurement(
        stamps, Answer(text=made.text, finish_reason=made.finish_reason, usage=usage, ended=True)
    )
