"""What a trial asks, and what the load generator is to do for it."""

import secrets
from typing import TYPE_CHECKING, Any

from kvlab.endpoints.counter import CalibratedCounter, Counter, Prompt, shared_prefix
from kvlab.endpoints.proof import nothing_reused
from kvlab.experiments.batch_benchmark.trials import Planned
from kvlab.load.job import Job, Labels, Retries
from kvlab.prompts import batch, exact, manual
from kvlab.prompts.batch import Kind, Workload
from kvlab.records import Trial
from kvlab.timing.arrivals import Arrivals

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
    from kvlab.session import Session

KINDS: dict[str, Kind] = {"isolated": "isolated", "conversation": "conversation"}


def handbook(params: "BatchBenchmarkParams", counter: Counter) -> str:
    """Return the system prompt's text: so long that a request's prompt has ``prompt_tokens``.

    Raises:
        InputError: No cut of the handbook gives that length.
    """
    cuts: dict[str, str] = {}  # by the system message that they make

    def build(cut: str) -> Prompt:
        system = batch.system_message("0" * 16, cut)
        cuts[system["content"]] = cut
        return {"messages": [system, batch.question(params.seed, 0)]}

    text = batch.handbook(params.seed, params.handbook_sections)
    names = exact.Names("prompt_tokens", "handbook_sections")
    if isinstance(counter, CalibratedCounter) and not counter.seen:
        exact.calibrate(
            lambda cut: {
                "messages": [
                    batch.system_message(secrets.token_hex(8), cut),  # a new one each time: never cached
                    batch.question(params.seed, 0),
                ]
            },
            text,
            [params.prompt_tokens],
            counter,
            names,
        )
    prompt = exact.fit(build, text, params.prompt_tokens, counter, names).prompt
    return cuts[prompt["messages"][0]["content"]]


def workload(session: "Session[BatchBenchmarkParams]", trial: Trial) -> Workload:
    """Return what the requests of a trial ask; its marker is that of no other trial or run."""
    params, item = session.params, Planned(**trial.planned)
    return Workload(
        kind=KINDS.get(item.strategy, "shared"),
        marker=manual.marker(session.run.isolation_id, trial.trial_id),
        text=handbook(params, session.counter),
        seed=params.seed,
        conversations=params.conversations or params.concurrency,
        trim_interval=params.trim_interval,
        keep_messages=params.keep_messages,
    )


def prefix_tokens(counter: Counter, asked: Workload, size: int) -> int | None:
    """Return how many leading tokens all ``size`` prompts of a trial share; ``None`` where that cannot be seen.

    Prompts differ from the first digit in which the numbers of their tickets do, so the first is held
    against one for each digit.
    """
    others = {10**digits for digits in range(8) if 10**digits < size} | {max(1, size - 1)}
    first, *rest = ({"messages": [asked.system(i), asked.question(i)]} for i in (0, *sorted(others)))
    return min(shared_prefix(counter, first, other) for other in rest) or None


def prefix_state(counter: Counter, asked: Workload, size: int) -> dict[str, int | None]:
    """Return what a prediction of savings starts from: ``prefix_tokens``, and an estimate where that is unseen.

    The estimate is the length of the system message alone, the chat template around it included.
    """
    state = {"prefix_tokens": prefix_tokens(counter, asked, size)}
    if state["prefix_tokens"] is None:
        state["prefix_tokens_estimate"] = counter({"messages": [asked.system(0)]})
    return state


def arrivals(params: "BatchBenchmarkParams", item: Planned) -> Arrivals:
    """Return when the requests of a trial are sent."""
    if item.strategy == "concurrent_start":
        return Arrivals("closed", min(item.size, params.concurrent_start_at_most))
    return Arrivals(
        params.mode, params.concurrency, params.rate_per_s, params.ramp_from_per_s, params.ramp_s, params.seed
    )


def job(session: "Session[BatchBenchmarkParams]", trial: Trial, asked: Workload, prefix: int | None) -> Job:
    """Return what the load generator is to do."""
    params, item = session.params, Planned(**trial.planned)
    connection = session.engine.connection
    prefixed = prefix if asked.kind == "shared" else None
    return Job(
        database=str(session.database.path),
        run_id=session.run.run_id,
        trial_id=trial.trial_id,
        session_id=session.run.session_id,
        arm=item.strategy,
        tag=f"{session.run.isolation_id[:8]}/{session.tag(trial)}",
        items=item.size,
        workload=asked,
        arrivals=arrivals(params, item),
        target=connection.target,
        body=body(session),
        salted=session.identity.can("salt"),
        retries=Retries(
            params.max_attempts, params.retry_wait_s, params.retry_max_wait_s, params.outage_limit_s
        ),
        labels=Labels(
            session.identity.law,
            session.shared_tokens,
            prefixed,
            nothing_reused(session.identity),
            tuple(sorted(connection.aliases)),
        ),
        max_connections=params.max_connections,
        secrets=tuple(connection.settings.secrets()),
    )


def body(session: "Session[BatchBenchmarkParams]") -> dict[str, Any]:
    """Return what all request bodies share."""
    connection = session.engine.connection
    decoding = {"max_tokens": session.params.max_tokens, "temperature": session.params.temperature}
    body: dict[str, Any] = connection.dialect.body(connection.model, {}, decoding)
    return body
