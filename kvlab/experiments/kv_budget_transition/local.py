"""Asking an example in this process: one prefill, and every budget out of it."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kvlab import policies
from kvlab.cache_state import CacheLabel, CacheState, Evidence
from kvlab.datasets import Example, Manifest
from kvlab.datasets.template import render, token_ids
from kvlab.datasets.tokenizer import Tokenizer
from kvlab.experiments.kv_budget_transition import arms, prepared, refine, store
from kvlab.experiments.kv_budget_transition.arms import Arm
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.policies import Budget
from kvlab.records import KVKept, Recorded, Trial
from kvlab.serving.metrics import ServerView
from kvlab.timing.request import Measurement
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation as Answer

if TYPE_CHECKING:
    from kvlab.engines.transformers_kv import Generation, KvEngine
    from kvlab.experiments.lab import Lab

FROM_TENSORS = "the cache's own tensors, after pruning"
NO_PREFIX_CACHE = "no prefix cache takes part: this process computes the context itself, once for all budgets"


def check_budgets(params: KVBudgetTransitionParams, manifest: Manifest) -> None:
    """Refuse a budget that the policy cannot honour on the shortest context.

    Raises:
        InputError: Naming the policy, the budget, and the smallest that works.
    """
    shortest = min((entry.token_len for entry in manifest.entries), default=0)
    for budget in params.kv.budgets:
        policies.get(params.kv.policy).check(Budget.of(budget), shortest)


def attempt(lab: "Lab[KVBudgetTransitionParams]", trial: Trial) -> list[Recorded]:
    """Ask one example under the arms of its round."""
    params = lab.params
    example = example_of(params, trial)
    if trial.planned["timed"]:
        return _timed(lab, trial, example)
    chosen = arms.planned(params)
    if number := int(trial.planned["round"]):
        budget = refine.budget_of(lab.run.database, params, number, _floor(params))
        if budget is None:
            return []
        chosen = arms.added(params, budget)
    return _swept(lab, trial, example, chosen)


def _floor(params: KVBudgetTransitionParams) -> float:
    """Return the smallest fraction that the policy can honour on every context."""
    shortest = min(entry.token_len for entry in prepared.manifest(params).entries)
    return (policies.get(params.kv.policy).smallest() + 1) / shortest


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
    """Prefill once, and generate all arms: those of one policy together, as the engine sees fit."""
    engine: KvEngine = lab.engine
    rows: list[Recorded] = []
    for context in (True, False):
        here = [arm for arm in chosen if (arm.phase != arms.NO_CONTEXT) is context]
        if not here:
            continue
        head, tail = _ids(lab, example, context=context)
        names = sorted({arm.policy_id for arm in here})
        # What the question-less control asks is compressed by nobody.
        mode = lab.params.kv.query_mode if context else "agnostic"
        sent_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        prefilled = engine.prefill(head, tail, mode, [policies.get(name) for name in names])
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
    engine.timed(head, tail, mode, policy, Budget.of(chosen[0].budget), 1)
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
