"""Asking an example in this process: one prefill, and every budget out of it.

Which budget a round of the refinement adds is decided here, too: once, out of the answers so far, and stored.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kvlab.compression import policies
from kvlab.compression.datasets import Example, Manifest
from kvlab.compression.datasets.template import render, token_ids
from kvlab.compression.datasets.tokenizer import Tokenizer
from kvlab.compression.policies import Budget
from kvlab.endpoints.metrics import ServerView
from kvlab.evidence import CacheLabel, CacheState, Evidence
from kvlab.experiment import Measuring
from kvlab.experiments.kv_budget_transition import plan, prepared, store
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams, metric_of
from kvlab.experiments.kv_budget_transition.plan import Arm
from kvlab.experiments.kv_budget_transition.state import State
from kvlab.records import KVKept, Recorded, Trial
from kvlab.taxonomy import RETRYABLE
from kvlab.timing.request import Measurement
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation as Answer

if TYPE_CHECKING:
    from kvlab.compression.engine import Generation, KvEngine
    from kvlab.runs.data import RunData
    from kvlab.session import Session

FROM_TENSORS = "the cache's own tensors, after pruning"
#: Phases with a prefill of their own; all the others share one.
_APART = (plan.NOISE_FLOOR, plan.NO_CONTEXT)
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


def ask(session: "Session[KVBudgetTransitionParams]", trial: Trial) -> Measuring:
    """Ask one example under the arms of its round."""
    params = session.params
    place, example = session.state.examples[trial.planned["example_id"]]
    if trial.planned["timed"]:
        return (yield from _with_line(_timed(session, trial, example)))
    chosen = plan.planned(params, place)
    if round_number := int(trial.planned["round"]):
        budget = budget_of(session.data(), params, round_number, _floor(session))
        if budget is None:
            return "nothing to ask"
        chosen = plan.added(params, budget)
    return (yield from _with_line(_swept(session, trial, example, chosen)))


def _with_line(rows: Iterable[Recorded]) -> Measuring:
    """Yield the rows, and return what was answered at each budget, shortened."""
    made: list[Recorded] = []
    for row in rows:
        made.append(row)
        yield row
    return line(made)


def line(rows: Sequence[Recorded]) -> str:
    """Return what was answered at each budget, shortened, and how many requests failed."""
    if not rows:
        return "nothing to ask"
    curve = (plan.PLANNED, plan.ADDED, plan.TIMED)
    parts = [
        f"{Budget.of(row.kv.budget).label} {_begin(row)}"
        for row in rows
        if row.phase in curve and row.kv is not None
    ]
    failures = [row.measurement.failure for row in rows if row.measurement.failure is not None]
    if failures:
        kinds = ", ".join(sorted({str(failure.error_type) for failure in failures}))
        parts.append(f"{len(failures)} of {len(rows)} requests failed ({kinds})")
    return " · ".join(parts) or "the controls"


def _begin(row: Recorded) -> str:
    """Return how an answer begins, or why there is none."""
    if row.measurement.generation is None:
        return str(row.measurement.failure.error_type) if row.measurement.failure else "no answer"
    text = " ".join(row.measurement.generation.text.split())
    return repr(text if len(text) <= 16 else f"{text[:15]}…")


def _floor(session: "Session[KVBudgetTransitionParams]") -> float:
    """Return the smallest fraction that the policy can honour on every context."""
    state: State = session.state
    if state.floor is None:
        policy, lengths = policies.get(session.params.kv.policy), sizes(session.params, state.manifest)
        state.floor = max((policy.smallest(tail) + 1) / length for length, tail in lengths)
    return state.floor


def _ids(
    session: "Session[KVBudgetTransitionParams]", example: Example, *, context: bool
) -> tuple[list[int], list[int]]:
    """Return the tokens before and after the cut; without a context the first token stands before it."""
    manifest = session.state.manifest
    tokenizer = Tokenizer.wrap(session.engine.tokenizer, manifest.tokenizer.name)
    head, tail = token_ids(render(example, manifest.prompt_template), tokenizer, context=context)
    return (head, tail) if head else (tail[:1], tail[1:])


def _swept(
    session: "Session[KVBudgetTransitionParams]", trial: Trial, example: Example, chosen: Sequence[Arm]
) -> Iterator[Recorded]:
    """Prefill once, and generate all arms: those of one policy together, as the engine sees fit.

    Budget 1.0 once more is prefilled once more: out of the same cache, it could show no noise of the prefill.
    """
    engine: KvEngine = session.engine
    limit = prepared.answer_limit(session.params, example)
    store.ensure_runs(session.database, session.run.run_id, chosen)
    for phase in (None, *_APART):
        here = [arm for arm in chosen if (arm.phase if arm.phase in _APART else None) == phase]
        if not here:
            continue
        context, anew = phase != plan.NO_CONTEXT, phase == plan.NOISE_FLOOR
        head, tail = _ids(session, example, context=context)
        names = sorted({arm.policy_id for arm in here})
        # What the question-less control asks is compressed by nobody.
        mode = session.params.kv.query_mode if context else "agnostic"
        sent_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        chosen_policies = [policies.get(name) for name in names]
        prefilled = engine.prefill(head, tail, mode, chosen_policies, anew=anew)
        for name in names:
            group = [arm for arm in here if arm.policy_id == name]
            budgets = [Budget.of(arm.budget) for arm in group]
            made = engine.generate(prefilled, policies.get(name), budgets, limit)
            for arm, one in zip(group, made, strict=True):
                yield _recorded(session, trial, example, arm, one, (head, tail), sent_utc)


def _timed(
    session: "Session[KVBudgetTransitionParams]", trial: Trial, example: Example
) -> Iterator[Recorded]:
    """Measure each budget alone, prefill included; the first call of all is thrown away, as warm-up."""
    engine: KvEngine = session.engine
    policy, chosen = policies.get(session.params.kv.policy), plan.timed(session.params)
    head, tail = _ids(session, example, context=True)
    mode, limit = session.params.kv.query_mode, prepared.answer_limit(session.params, example)
    store.ensure_runs(session.database, session.run.run_id, chosen)
    engine.states.clear()  # their memory would be in the way of the peak's
    if not session.state.is_warm:
        engine.timed(head, tail, mode, policy, Budget.of(chosen[0].budget), 1)
        session.state.is_warm = True
    for arm in chosen:
        sent_utc = datetime.now(UTC).isoformat(timespec="milliseconds")
        made = engine.timed(head, tail, mode, policy, Budget.of(arm.budget), limit)
        yield _recorded(session, trial, example, arm, made, (head, tail), sent_utc)


def _recorded(
    session: "Session[KVBudgetTransitionParams]",
    trial: Trial,
    example: Example,
    arm: Arm,
    made: "Generation",
    ids: tuple[list[int], list[int]],
    sent_utc: str,
) -> Recorded:
    measurement = _measurement(made, made.n_context + made.n_tail)
    failure = measurement.failure
    return Recorded(
        request_id=session.request_id(trial, arm.name),
        arm=arm.name,
        attempt=session.attempt,
        prompt={"context_ids": ids[0], "tail_ids": ids[1]},
        decoding={
            "max_tokens": prepared.answer_limit(session.params, example),
            "temperature": 0.0,
            "batch_size": made.batch_size,
        },
        target_tokens=None,
        sent_utc=sent_utc,
        measurement=measurement,
        server=ServerView(reason=made.timing_reason or "measured in this process"),
        evidence=Evidence(made.n_context + made.n_tail),
        label=CacheLabel(CacheState.UNVERIFIED, None, None, None, NO_PREFIX_CACHE),
        run_id=f"{session.run.run_id}/{arm.run_name}",
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
        # What the model itself fails at is a result of its budget; what broke in the serving is none.
        expected=failure is not None and failure.error_type not in RETRYABLE,
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


def budget_of(
    data: "RunData", params: KVBudgetTransitionParams, round_number: int, floor: float
) -> float | None:
    """Return the budget of a round, decided and stored at its first call; ``None``: nothing to refine.

    The same answers give the same budget. Stored before it is measured: a kill in between, or an
    answer that comes later, changes nothing.
    """
    query = "SELECT budget FROM added_budgets WHERE round = ?"
    row = data.sql.execute(query, (round_number,)).fetchone()
    if row is None:
        budget, reason = _decide(data, params, round_number, floor)
        with data.database.transaction():
            data.database.insert("added_budgets", round=round_number, budget=budget, reason=reason)
        print(f"round {round_number}: {reason}", flush=True)
        return budget
    return None if row["budget"] is None else float(row["budget"])


def _decide(
    data: "RunData", params: KVBudgetTransitionParams, round_number: int, floor: float
) -> tuple[float | None, str]:
    from kvlab.compression.transition.refine import next_budget  # with pandas: only while measuring
    from kvlab.experiments.kv_budget_transition import estimate

    decided = data.sql.execute("SELECT count(*) FROM added_budgets WHERE budget IS NULL").fetchone()[0]
    if decided:
        return None, "nothing is left to refine"
    so_far = estimate.Answers.of(data, params)
    answers = so_far.frame[so_far.frame["phase"].isin(("planned", "added"))]
    metric = metric_of(params, so_far.scored_by)
    curve = answers[metric].where(~answers["failed"], 0.0).groupby(answers["budget"]).mean()
    tokens = {
        share: int(asked)
        for share, asked in zip(answers["budget"], answers["asked"], strict=True)
        if asked > 1
    }
    shortest = data.sql.execute("SELECT min(token_len) FROM manifest_entries").fetchone()[0]
    gap = params.kv.min_budget_gap
    budget = next_budget(
        {float(str(key)): float(value) for key, value in curve.items()},
        params.rounds,
        gap,
        planned=len(params.kv.budgets),
        min_drop=params.analysis.margin,
        middle=lambda high, low: _middle(high, low, tokens, gap, floor, shortest),
    )
    if budget is None:
        return (
            None,
            f"no fall of mean {metric} above the margin is left that is wide enough to halve",
        )
    place = estimate.shares(data.sql, {*answers["asked"], budget})[budget]
    high = min(key for key in curve.index if key > place)
    low = max(key for key in curve.index if key < place)
    names = [Budget.of(value).label for value in (budget, tokens.get(high, high), tokens.get(low, low))]
    fall = f"mean {metric} falls from {curve[high]:.3f} to {curve[low]:.3f}"
    return budget, f"budget {names[0]} is added: between {names[1]} and {names[2]} {fall}"


def _middle(
    high: float, low: float, tokens: Mapping[float, int], gap: float, floor: float, shortest: int
) -> float | None:
    """Return the middle of two budgets in their own unit; ``None`` across units, or where nothing fits.

    1.0 is of either unit. The most entries that are still a budget on every context are one fewer than
    the shortest context has; gap and floor are shares of that one.
    """
    from kvlab.compression.transition.refine import halve

    if low not in tokens:
        return None if high in tokens else halve(high, low, gap, floor)
    most = tokens.get(high, shortest - 1 if high == 1.0 else 0)
    middle = (most + tokens[low]) // 2
    fits = most - tokens[low] >= max(2, 2 * gap * shortest) and middle >= floor * shortest
    return float(middle) if fits else None
