"""Token sweep: what does a cached prefix save, at each prompt length?

Prefill computes every prompt token that is not in the cache, so a cold TTFT grows with the prompt
(linearly through the matrix products, quadratically through attention). A full hit leaves only the
tail of the last block to compute, so its TTFT should stay nearly flat. Each pair asks the same
tokens twice, cold then hit, and the saving is worked out within the pair.
"""

import random
from pathlib import Path

from kvlab.demand import Demand
from kvlab.endpoints.engines import Endpoint
from kvlab.errors import InputError
from kvlab.experiment import EngineFacts, Experiment, Plan, later
from kvlab.experiments.token_sweep.measure import calibrate, pair, prompt, samples
from kvlab.experiments.token_sweep.params import TokenSweepParams
from kvlab.prompts import manual
from kvlab.records import Trial


def plan(params: TokenSweepParams, folder: Path | None = None) -> Plan:
    """Plan one pair for each repeat of each length."""
    draw = random.Random(params.seed)  # noqa: S311 - an order, not a secret
    order: list[tuple[int, int]] = []
    for repeat in range(1, params.repeats + 1):
        targets = list(params.token_targets)
        if params.order == "random":
            draw.shuffle(targets)
        order += [(target, repeat) for target in targets]
    trials = [
        Trial(f"{t:06d}-r{repeat:02d}", str(t), repeat, {"target_tokens": t}, requests=2)
        for t, repeat in order
    ]
    controls = _controls(params)
    sent = sum(t for t, _ in order)
    computed = sent + 2 * sum(trial.planned["target_tokens"] for trial in controls)
    requests, warm_up = 2 * (len(trials) + len(controls)), min(params.token_targets)
    return Plan(
        trials=tuple(_spread(trials, controls)),
        costs={
            "pairs": len(trials),
            "control pairs": len(controls),
            "requests": requests,
            "prompt tokens sent": sent + computed,
            "prompt tokens computed, if every hit hits": computed,
            "generated tokens, at most": requests * params.max_tokens,
        },
        contract={"prompt_template_hash": manual.template_hash()},
        demand=Demand(requests + 1, sent + computed + warm_up, (requests + 1) * params.max_tokens),
        samples=samples(params),
        warm_up=Trial("warmup", "warmup", 0, {"target_tokens": warm_up}),
    )


def _controls(params: TokenSweepParams) -> list[Trial]:
    """Return the control pairs, over the lengths in turn."""
    lengths = params.token_targets
    return [
        Trial(
            f"control-{n:02d}",
            f"control {lengths[(n - 1) % len(lengths)]}",
            n,
            {"target_tokens": lengths[(n - 1) % len(lengths)], "control": True},
            requests=2,
        )
        for n in range(1, params.position_controls + 1)
    ]


def _spread(trials: list[Trial], controls: list[Trial]) -> list[Trial]:
    """Return the trials with the controls evenly among them: what drifts, drifts for both."""
    spread = list(trials)
    for n in reversed(range(len(controls))):
        spread.insert(round((n + 1) * len(trials) / (len(controls) + 1)), controls[n])
    return spread


def check(params: TokenSweepParams, plan: Plan, facts: EngineFacts) -> None:
    """Refuse a prompt that does not fit the context with its answer, or that the document cannot give."""
    longest, room = max(params.token_targets), facts.max_model_len
    if room is not None and longest + params.max_tokens > room:
        fix = (
            f"and max_tokens {params.max_tokens} do not fit the model's context of {room} tokens; "
            f"the longest target that fits is {room - params.max_tokens} "
            "(--profile smoke fits the embedded model)"
        )
        raise InputError("token_targets", longest, fix)
    if facts.engine is not None:
        calibrate(params, facts.engine.counter)
        calibrate(params, facts.engine.counter)
        for target in {min(params.token_targets), longest}:
            prompt(params, facts.engine.counter, target, manual.marker("check", str(target)))


EXPERIMENT: Experiment[TokenSweepParams] = Experiment(
    name="token_sweep",
    title="Token sweep: cold against cache hit over prompt length",
    Params=TokenSweepParams,
    proves="cache states, by the cached tokens that the server reports",
    open=lambda params, settings: Endpoint(settings),
    plan=plan,
    check=check,
    measure=pair,
    findings=later(f"{__name__}.findings"),
)
