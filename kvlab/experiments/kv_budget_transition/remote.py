"""Asking an endpoint: retries as rows of their own, pacing, and no budget without evidence."""

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import stamina

from kvlab.compression.datasets.template import Rendered, messages, plain, render
from kvlab.compression.policies import Budget
from kvlab.endpoints.openai import Call, OpenAICompat
from kvlab.errors import InputError, KvlabError, ServerError
from kvlab.evidence import as_tokens
from kvlab.experiments.kv_budget_transition import arms, prepared, store
from kvlab.experiments.kv_budget_transition.arms import Arm
from kvlab.experiments.kv_budget_transition.local import example_of
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.experiments.kv_budget_transition.settled import Last, asked, is_settled
from kvlab.records import KVKept, Recorded, Trial
from kvlab.taxonomy import REFUSES_ALL, RETRYABLE, ErrorType
from kvlab.timing.request import Failure, Measurement

if TYPE_CHECKING:
    from kvlab.session import Lab

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

    At 1.0 silence is no objection: nothing is asked of it. An answer that says otherwise is.

    Raises:
        InputError: The endpoint ignores a budget, or says nothing.
    """
    for budget in params.kv.budgets if params.engine.kept_tokens_field else ():
        label = Budget.of(budget).label
        call = Call(
            request_id=f"prove-{label}",
            arm="proof",
            prompt={"messages": [{"role": "user", "content": PROOF}]},
            decoding={"max_tokens": 4, "temperature": 0.0, **body_of(params, budget)},
        )
        _pace(engine, params).wait()
        measured = engine.ask(call).measurement
        where = params.engine.kept_tokens_field
        if measured.failure is not None:
            fix = f"fails on the endpoint ({measured.failure.message[:120]}); correct engine.extra_body"
            raise InputError("kv.budgets", budget, fix)
        assert measured.generation is not None  # noqa: S101 - no failure, so an answer
        kept, total = as_tokens(measured.generation.kept_value), _prompt_tokens(measured)
        if kept is None and budget == 1.0:
            continue
        if kept is None:
            fix = f"is not proven: the answer has no number at {where}; a label without evidence is no measurement"
            raise InputError("kv.budgets", budget, fix)
        if total is None or not _honoured(params, budget, kept, total):
            wanted = "?" if total is None else Budget.of(budget).n_kept(total)
            fix = f"is ignored by the endpoint: {where} says that {kept} of {total} entries were kept, not {wanted}"
            other = (
                "a server whose cache is whole at 1.0"
                if budget == 1.0
                else "[1.0], or a server that applies budgets"
            )
            raise InputError("kv.budgets", budget, f"{fix}; use {other}")


def body_of(params: KVBudgetTransitionParams, budget: float) -> dict[str, Any]:
    """Return what a request carries to ask for a budget; 1.0 may be written ``1`` or ``1.0``."""
    bodies = params.engine.extra_body
    return bodies.get(Budget.of(budget).label) or (bodies.get("1.0") if budget == 1.0 else None) or {}


def _prompt_tokens(measured: Measurement) -> int | None:
    usage = measured.generation.usage if measured.generation is not None else None
    return as_tokens((usage or {}).get("prompt_tokens"))


def _honoured(params: KVBudgetTransitionParams, budget: float, kept: int, total: int) -> bool:
    return abs(kept - Budget.of(budget).n_kept(total)) <= params.engine.kept_tolerance_tokens


def ask(lab: "Lab[KVBudgetTransitionParams]", trial: Trial) -> tuple[list[Recorded], bool]:
    """Ask what an example still lacks, each arm until it is answered, refused, or out of attempts.

    Each answer is in the database before the next is asked for, so that a stop costs none of them.

    Returns:
        The requests made now, and whether every arm has its answer or a failure of its own.

    Raises:
        KvlabError: The endpoint refuses in a way that every other request would meet, too.
    """
    chosen = arms.timed(lab.params) if trial.planned["timed"] else arms.planned(lab.params, trial.ordinal)
    store.ensure_runs(lab.run.database, lab.run.run_id, chosen)
    stored, rows, settled = asked(lab.run.database, trial.trial_id), [], True
    for arm in chosen:
        last = stored.get(arm.name, Last(0, settled=False))
        if last.settled:
            continue
        rows += _ask(lab, trial, arm, last.attempt)
        settled &= is_settled(rows[-1].measurement.failure)
    return rows, settled


def _ask(lab: "Lab[KVBudgetTransitionParams]", trial: Trial, arm: Arm, before: int) -> list[Recorded]:
    rows: list[Recorded] = []
    try:
        for context in _attempts(lab.params.max_attempts):
            with context:
                _pace(lab.engine, lab.params).wait()
                row = _once(lab, trial, arm, before + context.num)
                lab.run.database.record_items(lab.run.run_id, trial.trial_id, [row])
                rows.append(row)
                _go_on(row.measurement.failure)
    except _TryAgainError:
        pass
    return rows


def _go_on(failure: Failure | None) -> None:
    """Raise where the next request cannot be the next arm's."""
    if failure is None:
        return
    if failure.http_status in REFUSES_ALL:
        said = f"the endpoint refuses every request (HTTP {failure.http_status}): {failure.message}"
        raise KvlabError(f"{said}; mend that, and resume")
    if failure.error_type in RETRYABLE:
        raise _TryAgainError


def _attempts(number: int) -> "Iterator[stamina.Attempt]":
    """Return so many attempts, with pauses that grow, with jitter."""
    yield from stamina.retry_context(_TryAgainError, attempts=number, wait_max=30.0, timeout=None)


def _once(lab: "Lab[KVBudgetTransitionParams]", trial: Trial, arm: Arm, number: int) -> Recorded:
    params, manifest = lab.params, prepared.manifest(lab.params)
    example = example_of(params, trial)
    rendered = render(example, manifest.prompt_template)
    prompt = _prompt(rendered, context=arm.phase != arms.NO_CONTEXT)
    limit = prepared.answer_limit(params, example)
    call = Call(
        request_id=f"{lab.run.experiment_id}/{trial.trial_id}/{arm.name}"
        + (f"/{number}" if number > 1 else ""),
        arm=arm.name,
        prompt=prompt,
        target_tokens=_counted(lab, prompt),
        decoding={
            "max_tokens": limit,
            "temperature": params.decoding.temperature,
            **body_of(params, arm.budget),
        },
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


def _prompt(rendered: Rendered, *, context: bool) -> dict[str, Any]:
    """Return the prompt as chat messages, or as plain text where the task has no chat template."""
    if rendered.chat:
        return {"messages": messages(rendered, context=context)}
    return {"prompt": plain(rendered, context=context)}


def _counted(lab: "Lab[KVBudgetTransitionParams]", prompt: dict[str, Any]) -> int | None:
    """Return the prompt's length where it is known to the token: an estimate could not say that the server cut it."""
    if not lab.counter.exact:
        return None
    try:
        return lab.counter(prompt)
    except ServerError:  # the request itself will say what is wrong
        return None


def _with_evidence(params: KVBudgetTransitionParams, arm: Arm, row: Recorded) -> Recorded:
    """Add what the endpoint says it kept; an answer that does not show its budget is a failure."""
    measured, total = row.measurement, _prompt_tokens(row.measurement)
    if measured.generation is None:
        return row
    kept = as_tokens(measured.generation.kept_value)
    shown = kept is not None and total is not None and _honoured(params, arm.budget, kept, total)
    if not shown and not (arm.budget == 1.0 and kept is None):
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
