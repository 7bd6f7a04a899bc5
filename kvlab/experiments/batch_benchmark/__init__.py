"""Batch benchmark: will 170,000 requests finish, when, and at what saving?

The requests of a batch share a system prompt, so the server should compute it once. How much that saves
depends on how the requests are sent: independently, in growing conversations, all at once, as a batch job.
A control with the prefix broken says what the cache is worth. From trials of growing size the time of the
whole batch is extrapolated, and the extrapolation is checked on the largest size before it is believed.
"""

import sys
from pathlib import Path

from kvlab.demand import Demand
from kvlab.endpoints.counter import Prompt
from kvlab.endpoints.engines import Endpoint
from kvlab.errors import InputError
from kvlab.experiment import EngineFacts, Experiment, Plan, later
from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
from kvlab.experiments.batch_benchmark.trials import check_connections, trials
from kvlab.prompts import batch, manual
from kvlab.records import Trial


def plan(params: BatchBenchmarkParams, folder: Path | None = None) -> Plan:
    """Plan every strategy at every size."""
    requests = sum(params.sizes) * len(params.strategies) * params.repeats
    planned = trials(params)
    return Plan(
        trials=tuple(planned),
        costs={
            "trials": len(planned),
            "requests": requests,
            "prompt tokens sent, conversations' growth apart": requests * params.prompt_tokens,
            "generated tokens, at most": requests * params.max_tokens,
            "target requests": params.target_requests,
        },
        contract={"prompt_template_hash": batch.template_hash()},
        demand=Demand(requests + 1, _sent(params), (requests + 1) * params.max_tokens),
        samples=(_sample("a"), _sample("b")),
        warm_up=Trial("warmup", "warmup", 0),
    )


def _sent(params: BatchBenchmarkParams) -> int:
    """Return the prompt tokens that are sent at most, each turn of a conversation as long as its longest."""
    a_strategy = sum(params.sizes) * params.repeats
    lengths = (
        _grown(params) if name == "conversation" else params.prompt_tokens for name in params.strategies
    )
    return a_strategy * sum(lengths) + params.prompt_tokens


def _grown(params: BatchBenchmarkParams) -> int:
    """Return about how long a conversation's prompt becomes: until it is trimmed, a turn adds a question (about 40 tokens) and an answer."""
    longest = params.trim_interval + params.keep_messages // 2
    turns = min(longest, max(params.sizes) // (params.conversations or params.concurrency))
    return params.prompt_tokens + turns * (40 + params.max_tokens)


def _sample(tag: str) -> Prompt:
    """Return a short prompt; two of them differ in their markers alone."""
    system = batch.system_message(manual.marker("sample", tag), "Section 1.")
    return {"messages": [system, batch.question(0, 0)]}


def check(params: BatchBenchmarkParams, plan: Plan, facts: EngineFacts) -> None:
    """Refuse prompts that do not fit with their answers, and more connections than the system allows."""
    if sys.platform == "win32":
        fix = "is not possible on Windows: its load generator waits on pipes; run kvlab inside WSL2"
        raise InputError("experiment", "batch_benchmark", fix)
    check_connections(params)
    if facts.max_model_len is not None:
        _check_length(params, facts.max_model_len)
    if facts.engine is not None:
        from kvlab.experiments.batch_benchmark import jobs

        jobs.handbook(params, facts.engine.counter)


def _check_length(params: BatchBenchmarkParams, max_model_len: int) -> None:
    interval = params.trim_interval
    grown = _grown(params) if "conversation" in params.strategies else params.prompt_tokens
    if grown + params.max_tokens > max_model_len:
        fix = (
            f"can grow to about {grown + params.max_tokens:,} tokens within a conversation's {interval} exchanges, "
            f"more than the model's context of {max_model_len:,}; lower trim_interval, max_tokens or prompt_tokens"
        )
        raise InputError("prompt_tokens", params.prompt_tokens, fix)


EXPERIMENT: Experiment[BatchBenchmarkParams] = Experiment(
    name="batch_benchmark",
    title="Batch benchmark: will so many requests finish, when, and at what saving?",
    Params=BatchBenchmarkParams,
    proves="cache states, by the cached tokens that the server reports",
    open=lambda params, settings: Endpoint(settings),
    plan=plan,
    check=check,
    measure=later(f"{__name__}.measure", "measure"),
    findings=later(f"{__name__}.findings"),
)
