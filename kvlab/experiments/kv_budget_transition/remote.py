"""Asking an endpoint: retries as rows of their own, pacing, and no budget without evidence."""

import time
from collections.abc import Generator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kvlab.compression.datasets.template import Rendered, messages, plain, render
from kvlab.compression.policies import Budget
from kvlab.endpoints import engines
from kvlab.errors import InputError, KvlabError, ServerError
from kvlab.evidence import as_tokens
from kvlab.experiment import Measuring, UnfinishedError
from kvlab.experiments.kv_budget_transition import plan, prepared, store
from kvlab.experiments.kv_budget_transition.local import line
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.experiments.kv_budget_transition.plan import Arm
from kvlab.experiments.kv_budget_transition.state import Pace
from kvlab.records import KVKept, Recorded, Trial
from kvlab.settings import Settings
from kvlab.store.database import Database
from kvlab.taxonomy import REFUSES_ALL, RETRYABLE, ErrorType
from kvlab.timing.request import Failure, Measurement

if TYPE_CHECKING:
    from kvlab.endpoints.openai import OpenAICompat
    from kvlab.session import Session

PROOF = "Say nothing but the word yes. " * 60


def check_asking(params: KVBudgetTransitionParams) -> None:
    """Refuse budgets and controls that no endpoint can be asked for.

    Raises:
        InputError: One of them.
    """
    smaller = [budget for budget in params.kv.budgets if budget != 1.0]
    if smaller:
        _check_means(params, smaller)
    if "random" in params.kv.controls and smaller:
        fix = "holds random, which needs the engine transformers_kv: an endpoint applies its own policy; leave it out"
        raise InputError("kv.controls", params.kv.controls, fix)


def _check_means(params: KVBudgetTransitionParams, smaller: list[float]) -> None:
    """Refuse budgets on an endpoint without a way to ask for them and a field that proves them.

    Raises:
        InputError: One of the two is missing.
    """
    labels = [Budget.of(budget).label for budget in smaller]
    missing = [label for label in labels if label not in params.engine.extra_body]
    why = "would be a label and no measurement"
    if missing:
        fix = f"on an endpoint {why}: engine.extra_body says for no {missing[0]} how to ask for it; add it, or use [1.0]"
        raise InputError("kv.budgets", params.kv.budgets, fix)
    if params.engine.kept_tokens_field is None:
        fix = f"on an endpoint {why}: name the field of its answer that proves them (engine.kept_tokens_field), or use [1.0]"
        raise InputError("kv.budgets", params.kv.budgets, fix)


def open_engine(
    params: KVBudgetTransitionParams, settings: Settings, check: engines.LengthCheck
) -> "OpenAICompat":
    """Connect to the endpoint, and let it prove its budgets.

    Raises:
        InputError: The endpoint is wrong, or does not prove them.
        ServerError: The embedded server did not start.
    """
    opened: OpenAICompat = engines.Endpoint(settings).open(check)
    client = opened.connection.client
    client.target = replace(client.target, kept_path=params.engine.kept_tokens_field)
    try:
        prove_budgets(params, opened)
    except BaseException:
        opened.close()
        raise
    return opened


def prove_budgets(params: KVBudgetTransitionParams, engine: "OpenAICompat") -> None:
    """Ask for each budget once, and refuse the endpoint where its answer does not show it.

    At 1.0 silence is no objection: nothing is asked of it. An answer that says otherwise is.

    Raises:
        InputError: The endpoint ignores a budget, or says nothing.
    """
    from kvlab.endpoints.openai import Call  # only where something is asked

    pace = Pace(params.engine.max_rpm)
    for budget in params.kv.budgets if params.engine.kept_tokens_field else ():
        label = Budget.of(budget).label
        call = Call(
            request_id=f"prove-{label}",
            arm="proof",
            prompt={"messages": [{"role": "user", "content": PROOF}]},
            decoding={"max_tokens": 4, "temperature": 0.0, **body_of(params, budget)},
        )
        pace.wait()
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


def is_final(failure: Failure | None) -> bool:
    """Whether a request is answered, or failed by the model: what broke in the serving, a later run may get answered."""
    if failure is None:
        return True
    return failure.error_type not in RETRYABLE and failure.http_status not in REFUSES_ALL


def final_arms(database: Database, trial_id: str) -> set[str]:
    """Return the arms of a trial whose last attempt, over all sessions, leaves nothing to ask."""
    rows = database.sql.execute(
        "SELECT arm, error_type, http_status, message FROM requests LEFT JOIN failures USING (request_id) "
        "WHERE trial_id = ? ORDER BY attempt",
        (trial_id,),
    )
    last = {arm: _failure(*rest) for arm, *rest in rows}
    return {arm for arm, failure in last.items() if is_final(failure)}


def _failure(error_type: str | None, http_status: int | None, message: str) -> Failure | None:
    return None if error_type is None else Failure(ErrorType(error_type), message, http_status)


def ask(session: "Session[KVBudgetTransitionParams]", trial: Trial) -> Measuring:
    """Ask what an example still lacks, each arm until it is answered, refused, or out of attempts.

    Each answer is stored before the next is asked for, so that a stop costs none of them.

    Raises:
        UnfinishedError: Some arm has neither an answer nor a failure of its own.
        KvlabError: The endpoint refuses in a way that every other request would meet, too.
    """
    place, _ = session.state.examples[trial.planned["example_id"]]
    chosen = plan.timed(session.params) if trial.planned["timed"] else plan.planned(session.params, place)
    store.ensure_runs(session.database, session.run.run_id, chosen)
    before, rows, settled = final_arms(session.database, trial.trial_id), list[Recorded](), True
    for item, arm in enumerate(chosen):
        if arm.name in before:
            continue
        rows += yield from _until_final(session, trial, arm, item)
        settled &= is_final(rows[-1].measurement.failure)
    if not settled:
        raise UnfinishedError(line(rows))
    return line(rows)


def _until_final(
    session: "Session[KVBudgetTransitionParams]", trial: Trial, arm: Arm, item: int
) -> Generator[Recorded, None, list[Recorded]]:
    """Ask one arm, again where that may help: each time under a number that no other request of it has."""
    rows: list[Recorded] = []
    began = time.monotonic()
    while True:
        if rows:
            session.attempt = session.database.claim_attempt(trial.trial_id)
        session.state.pace.wait()
        row = _once(session, trial, arm)
        failure = row.measurement.failure
        row = replace(row, item=item, final=is_final(failure))
        yield row
        rows.append(row)
        if failure is None:
            return rows
        if failure.http_status in REFUSES_ALL:
            reason = f"the endpoint refuses every request (HTTP {failure.http_status}): {failure.message}"
            raise KvlabError(f"{reason}; correct that, and resume")
        pause = session.pause_s(failure, len(rows), began)
        if pause is None:
            return rows
        time.sleep(pause)


def _once(session: "Session[KVBudgetTransitionParams]", trial: Trial, arm: Arm) -> Recorded:
    from kvlab.endpoints.openai import Call  # only where something is asked

    params = session.params
    _, example = session.state.examples[trial.planned["example_id"]]
    rendered = render(example, session.state.manifest.prompt_template)
    prompt = _prompt(rendered, context=arm.phase != plan.NO_CONTEXT)
    call = Call(
        request_id=session.request_id(trial, arm.name),
        arm=arm.name,
        prompt=prompt,
        target_tokens=_counted(session, prompt),
        decoding={
            "max_tokens": prepared.answer_limit(params, example),
            "temperature": params.decoding.temperature,
            **body_of(params, arm.budget),
        },
        attempt=session.attempt,
    )
    row = replace(
        session.engine.ask(call),
        run_id=f"{session.run.run_id}/{arm.run_name}",
        example_id=example.example_id,
        phase=arm.phase,
    )
    return _with_evidence(params, arm, row)


def _prompt(rendered: Rendered, *, context: bool) -> dict[str, Any]:
    """Return the prompt as chat messages, or as plain text where the task has no chat template."""
    if rendered.chat:
        return {"messages": messages(rendered, context=context)}
    return {"prompt": plain(rendered, context=context)}


def _counted(session: "Session[KVBudgetTransitionParams]", prompt: dict[str, Any]) -> int | None:
    """Return the prompt's length where it is known to the token: an estimate could not say that the server cut it."""
    if not session.counter.exact:
        return None
    try:
        return session.counter(prompt)
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
        reason = f"{params.engine.kept_tokens_field} says {kept} of {total} entries"
        failure = Failure(
            ErrorType.ENGINE_ERROR, f"the budget was not applied: {reason}", measured.http_status
        )
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
