"""Asking an endpoint: retries as rows of their own, pacing, and no budget without evidence."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import stamina

from kvlab.cache_state import as_tokens
from kvlab.datasets.template import messages, render
from kvlab.engines.openai_compat import Call, OpenAICompat
from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition import arms, prepared, store
from kvlab.experiments.kv_budget_transition.arms import Arm
from kvlab.experiments.kv_budget_transition.local import example_of
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.policies import Budget
from kvlab.records import KVKept, Recorded, Trial
from kvlab.taxonomy import RETRYABLE, ErrorType
from kvlab.timing.request import Failure, Measurement

if TYPE_CHECKING:
    from kvlab.experiments.lab import Lab

PROOF = "Say nothing but the word yes. " * 60


class _TryAgainError(Exception):
    """A request failed in a way that another attempt may not."""


class Pace:
    """Keeps requests apart, so that a minute has no more than it may have.

    Attributes:
        gap_s: The least time between the starts of two requests.
    """

    def __init__(self, max_rpm: float | None) -> None:
        self.gap_s = 60.0 / max_rpm if max_rpm else 0.0
        self._next = 0.0

    def wait(self) -> None:
        """Return when the next request may start."""
        now = time.monotonic()
        if self._next > now:
            time.sleep(self._next - now)
        self._next = max(now, self._next) + self.gap_s


_PACES: dict[int, Pace] = {}


def _pace(engine: OpenAICompat, params: KVBudgetTransitionParams) -> Pace:
    """Return the one pace of an engine."""
    return _PACES.setdefault(id(engine), Pace(params.engine.max_rpm))


def prove_budgets(params: KVBudgetTransitionParams, engine: OpenAICompat) -> None:
    """Ask for each budget once, and refuse the endpoint where its answer does not show it.

    Raises:
        InputError: The endpoint ignores a budget, or says nothing.
    """
    for budget in params.kv.budgets:
        if budget == 1.0:
            continue
        label = Budget.of(budget).label
        call = Call(
            request_id=f"prove-{label}",
            arm="proof",
            prompt={"messages": [{"role": "user", "content": PROOF}]},
            decoding={"max_tokens": 4, "temperature": 0.0, **params.engine.extra_body[label]},
        )
        _pace(engine, params).wait()
        measured = engine.ask(call).measurement
        where = params.engine.kept_tokens_field
        if measured.failure is not None:
            fix = f"fails on the endpoint ({measured.failure.message[:120]}); correct engine.extra_body"
            raise InputError("kv.budgets", budget, fix)
        assert measured.generation is not None  # noqa: S101 - no failure, so an answer
        kept, total = as_tokens(measured.generation.kept_value), _prompt_tokens(measured)
        if kept is None:
            fix = f"is not proven: the answer has no number at {where}; a label without evidence is no measurement"
            raise InputError("kv.budgets", budget, fix)
        if total is None or not _honoured(params, budget, kept, total):
            wanted = "?" if total is None else Budget.of(budget).n_kept(total)
            fix = f"is ignored by the endpoint: {where} says that {kept} of {total} entries were kept, not {wanted}"
            raise InputError("kv.budgets", budget, f"{fix}; use [1.0], or a server that applies budgets")


def _prompt_tokens(measured: Measurement) -> int | None:
    usage = measured.generation.usage if measured.generation is not None else None
    return as_tokens((usage or {}).get("prompt_tokens"))


def _honoured(params: KVBudgetTransitionParams, budget: float, kept: int, total: int) -> bool:
    return abs(kept - Budget.of(budget).n_kept(total)) <= params.engine.kept_tolerance_tokens


def attempt(lab: "Lab[KVBudgetTransitionParams]", trial: Trial) -> list[Recorded]:
    """Ask one example under each arm, each until it is answered, refused, or out of attempts."""
    if int(trial.planned["round"]):
        return []
    chosen = arms.timed(lab.params) if trial.planned["timed"] else arms.planned(lab.params)
    store.ensure_runs(lab.run.database, lab.run.run_id, chosen)
    rows: list[Recorded] = []
    for arm in chosen:
        rows += _ask(lab, trial, arm)
    return rows


def _ask(lab: "Lab[KVBudgetTransitionParams]", trial: Trial, arm: Arm) -> list[Recorded]:
    rows: list[Recorded] = []
    try:
        for context in _attempts(lab.params.max_attempts):
            with context:
                _pace(lab.engine, lab.params).wait()
                rows.append(_once(lab, trial, arm, context.num))
                failure = rows[-1].measurement.failure
                if failure is not None and failure.error_type in RETRYABLE:
                    raise _TryAgainError
    except _TryAgainError:
        pass
    return rows


def _attempts(number: int) -> "Iterator[stamina.Attempt]":
    """Return so many attempts, with pauses that grow, with jitter."""
    yield from stamina.retry_context(_TryAgainError, attempts=number, wait_max=30.0, timeout=None)


def _once(lab: "Lab[KVBudgetTransitionParams]", trial: Trial, arm: Arm, number: int) -> Recorded:
    params, manifest = lab.params, prepared.manifest(lab.params)
    example = example_of(params, trial)
    rendered = render(example, manifest.prompt_template)
    limit = prepared.answer_limit(params, example)
    body: dict[str, Any] = params.engine.extra_body.get(arm.label, {}) if arm.budget != 1.0 else {}
    call = Call(
        request_id=f"{lab.run.experiment_id}/{trial.trial_id}/{arm.name}"
        + (f"/{number}" if number > 1 else ""),
        arm=arm.name,
        prompt={"messages": messages(rendered, context=arm.phase != arms.NO_CONTEXT)},
        decoding={"max_tokens": limit, "temperature": params.decoding.temperature, **body},
        attempt=number,
    )
    row = lab.engine.ask(call)
    row = replace(
        row,
        run_id=f"{lab.run.run_id}/{arm.run_name}",
        example_id=example.example_id,
        phase=arm.phase,
    )
    return _with_evidence(params, arm, row)


def _with_evidence(params: KVBudgetTransitionParams, arm: Arm, row: Recorded) -> Recorded:
    """Add what the endpoint says it kept; an answer that does not show its budget is a failure."""
    measured, total = row.measurement, _prompt_tokens(row.measurement)
    if measured.generation is None:
        return row
    kept = as_tokens(measured.generation.kept_value)
    if arm.budget != 1.0 and (
        kept is None or total is None or not _honoured(params, arm.budget, kept, total)
    ):
        said = f"{params.engine.kept_tokens_field} says {kept} of {total} entries"
        failure = Failure(ErrorType.ENGINE_ERROR, f"the budget was not applied: {said}", measured.http_status)
        return replace(row, measurement=replace(measured, generation=None, failure=failure))
    if total is None:
        return row
    source = (
        f"the endpoint's {params.engine.kept_tokens_field}"
        if kept is not None
        else "budget 1.0: nothing was asked of it"
    )
    found = KVKept(
        policy_id=arm.policy_id,
        budget=arm.budget,
        n_context=total,
        n_planned=Budget.of(arm.budget).n_kept(total),
        n_kept=(total if kept is None else kept,),
        evidence=source,
    )
    return replace(row, kv=found)
