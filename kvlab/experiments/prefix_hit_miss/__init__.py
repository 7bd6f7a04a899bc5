"""Prefix hit against miss inside vLLM: what the cache saves, and what a careless procedure makes of it.

A hit is [A, B, Q] after [A, B] was put into the cache; a miss is [B, Q]. A prefix cache knows tokens
by all that stands before them, so B behind A does not serve B alone. The miss should compute all of
its tokens, the hit only Q and the tail of a block. But the first miss puts its own tokens into the
cache: measured ten times with the same prompt, nine of the misses are hits.
"""

from pathlib import Path

from kvlab.demand import Demand
from kvlab.endpoints.engines import OfflineVLLM
from kvlab.errors import InputError
from kvlab.experiment import EngineFacts, Experiment, Plan, later
from kvlab.experiments.prefix_hit_miss import trials
from kvlab.experiments.prefix_hit_miss.measure import (
    QUESTION,
    QUESTION_TOKENS_AT_MOST,
    measure_trial,
    template_hash,
)
from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams
from kvlab.experiments.prefix_hit_miss.trials import Planned


def plan(params: PrefixHitMissParams, folder: Path | None = None) -> Plan:
    """Plan the trials of all (A, B), procedures and conditions."""
    every = trials.of(params)
    planned = [Planned(**trial.planned) for trial in every]
    verified = [item for item in planned if item.procedure == trials.VERIFIED]
    checks = sum(item.condition == trials.HIT for item in verified)
    warmups = sum(item.condition == trials.WARMUP for item in planned)
    generations = 2 * (len(planned) - warmups) + warmups + 2 * len(verified) + checks
    return Plan(
        trials=tuple(every),
        costs={
            **{
                f"{name} trials": sum(item.procedure == name for item in planned)
                for name in params.procedures
            },
            "discarded trials among them": sum(item.discarded for item in planned),
            "generations": generations,
        },
        demand=Demand(requests=generations, why="prompts are made inside vLLM, and sent nowhere"),
        contract={"prompt_template_hash": template_hash()},
        samples=({"prompt": "A" + QUESTION}, {"prompt": "B" + QUESTION}),  # bare text, which shares nothing
    )


def check(params: PrefixHitMissParams, plan: Plan, facts: EngineFacts) -> None:
    """Refuse a pair of contexts that does not fit the context with question and answer."""
    if facts.max_model_len is None:
        return
    generated = max(params.max_output_tokens + QUESTION_TOKENS_AT_MOST, params.warmup_tokens)
    size_a, size_b = max(params.configs, key=sum)
    if size_a + size_b + generated > facts.max_model_len:
        fix = (
            f"are {size_a + size_b} tokens, and with the question and {params.max_output_tokens} generated "
            f"tokens do not fit the model's context of {facts.max_model_len}; together they may have "
            f"{max(0, facts.max_model_len - generated)}"
        )
        raise InputError("sizes", [size_a, size_b], fix)


EXPERIMENT: Experiment[PrefixHitMissParams] = Experiment(
    name="prefix_hit_miss",
    title="Prefix hit against miss, inside vLLM, and the contamination it hides",
    Params=PrefixHitMissParams,
    proves="cache states, by the cached tokens that the engine reports",
    open=lambda params, settings: OfflineVLLM(settings),
    plan=plan,
    check=check,
    measure=measure_trial,
    findings=later(f"{__name__}.findings"),
)
