"""How long does a cached prefix stay: ask, wait (idle, or while others ask), ask the same again."""

import random
from pathlib import Path

from kvlab.endpoints.engines import Endpoint
from kvlab.errors import InputError
from kvlab.experiment import EngineFacts, Experiment, Plan, later
from kvlab.experiments.prefix_lifetime.measure import calibrate, measure, samples
from kvlab.experiments.prefix_lifetime.params import LifetimeParams
from kvlab.prompts import manual
from kvlab.records import Trial


def _trial(params: LifetimeParams, by: str, amount: float, repeat: int) -> Trial:
    """Return one prefix that waits: ``by`` is ``idle`` (seconds) or ``foreign`` (tokens)."""
    idle_s, tokens = (amount, 0) if by == "idle" else (0.0, int(amount))
    prompts = -(-tokens // params.prompt_tokens)
    planned = {"by": by, "amount": amount, "idle_s": idle_s, "foreign_prompts": prompts}
    return Trial(f"{by}-{amount}-r{repeat:02d}", f"{by}-{amount}", repeat, planned, requests=2 + prompts)


def plan(params: LifetimeParams, folder: Path | None) -> Plan:
    """Return every wait, ``repeats`` times; within each repeat in random order, so that no drift looks like a wait."""
    draw, trials = random.Random(params.seed), list[Trial]()  # noqa: S311 - an order, not cryptography
    waits = [("idle", s) for s in params.idle_s] + [("foreign", n) for n in params.foreign_tokens]
    for repeat in range(1, params.repeats + 1):
        trials += [_trial(params, by, amount, repeat) for by, amount in draw.sample(waits, len(waits))]
    requests = sum(trial.requests for trial in trials)
    return Plan(
        trials=tuple(trials),
        costs={
            "prefixes": len(trials),
            "requests": requests,
            "prompt tokens sent": requests * params.prompt_tokens,
            "generated tokens, at most": requests * params.max_tokens,
            "seconds idle": sum(trial.planned["idle_s"] for trial in trials),
        },
        contract={"prompt_template_hash": manual.template_hash()},
        samples=samples(),
        warm_up=Trial("warm-up", "warm_up", 1, {"idle_s": 0.0, "foreign_prompts": 0}),
    )


def check(params: LifetimeParams, plan: Plan, facts: EngineFacts) -> None:
    """Refuse prompts that the context cannot hold; let a server that cannot tokenize read one first."""
    needed = params.prompt_tokens + params.max_tokens
    if facts.max_model_len is not None and needed > facts.max_model_len:
        fix = f"and max_tokens need {needed} tokens, the context has {facts.max_model_len}; lower one"
        raise InputError("prompt_tokens", params.prompt_tokens, fix)
    if facts.engine is not None:
        calibrate(params, facts.engine.counter)


EXPERIMENT: Experiment[LifetimeParams] = Experiment(
    name="prefix_lifetime",
    title="How long does a cached prefix stay, idle and among other prompts?",
    Params=LifetimeParams,
    proves="that a prefix was still cached, by the cached tokens that the server reports",
    open=lambda params, settings: Endpoint(settings),
    plan=plan,
    check=check,
    measure=measure,
    findings=later(f"{__name__}.findings"),
)
