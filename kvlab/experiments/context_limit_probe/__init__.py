"""Context-limit probe: the longest context that still works, bytes per token, and constants to paste.

A server has several limits, and the one that it states is only the first: it refuses what is longer.
Memory may end before that, or the cache, or patience; and long before any of them a model may no
longer answer what stands at the start of its context, which raises no error at all. Each is looked
for with real requests; none is believed because somebody says so.

The physics: a token takes 2 · layers · kv_heads · head_dim · bytes of KV cache. An engine that
allocated its cache when it started does not show that in its memory; a bare transformers model does,
so the same weights are also loaded in a child process that may die of it.
"""

import sys
from pathlib import Path
from typing import Any

import psutil

from kvlab.demand import Demand
from kvlab.endpoints.engines import Endpoint
from kvlab.errors import InputError
from kvlab.experiment import EngineFacts, Experiment, Plan, later
from kvlab.experiments.context_limit_probe import material
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.records import Trial


def plan(params: ContextLimitProbeParams, folder: Path | None = None) -> Plan:
    """Plan growth, bisection, quality, cold TTFT, the children and the replays.

    A trial's id says which step it is, not how long its prompt will be: a bisection step takes its
    length from what the database holds when its turn comes, so a resumed run goes on where it was.
    """
    first, second = (
        material.conversation(mark, params.needles, params.growth, params.text_seed, 1)
        for mark in ("0" * 16, "f" * 16)
    )
    return Plan(
        trials=(*_endpoint_trials(params), *_child_trials(params), *_replay_trials(params)),
        costs={
            "points of growth": len(params.exchanges),
            "bisection steps at most": params.cut_steps,
            "questions a point": params.needles,
            "child processes at least": len(params.dtypes),
            "memory that a child may take, MiB": params.headroom_mib if params.dtypes else 0,
            "replayed turns": params.replay_exchanges * len(params.interval_factors),
        },
        demand=_demand(params),
        contract={"prompt_template_hash": material.template_hash()},
        samples=({"messages": first}, {"messages": second}),
    )


def _demand(params: ContextLimitProbeParams) -> Demand:
    """Return what is sent at most, if no limit is met below the ceiling; an exchange has about 100 tokens, or 400."""
    each, ceiling = (100 if params.growth == "conversation" else 400), params.ceiling_tokens
    asked = 1 + params.needles  # at every point of growth, and after a bisection step that was answered
    points = [min(n * each, ceiling) for n in params.exchanges]
    replayed = [min(n * each, ceiling) for n in range(1, params.replay_exchanges + 1)]
    quality = params.quality_steps * params.needles
    steps, replays = params.cut_steps, len(params.interval_factors)
    prompt = (sum(points) + steps * ceiling) * asked + quality * ceiling
    prompt += sum(params.cold_tokens) + replays * sum(replayed)
    requests = (len(points) + steps) * asked + quality + len(params.cold_tokens)
    completion = requests * max(params.decode_tokens, material.ANSWER_TOKENS)
    turns = replays * params.replay_exchanges
    return Demand(requests + turns, prompt, completion + turns * params.replay_tokens)


def _endpoint_trials(params: ContextLimitProbeParams) -> list[Trial]:
    quality_steps = params.quality_steps if params.needles else 0
    return [
        *(
            Trial(f"grow-{n:05d}", f"{n} exchanges", 1, {"kind": "grow", "exchanges": n})
            for n in params.exchanges
        ),
        *(
            Trial(f"cut-{step:02d}", "bisection", step, {"kind": "cut"})
            for step in range(1, params.cut_steps + 1)
        ),
        *(
            Trial(f"quality-{step:02d}", "quality", step, {"kind": "quality"})
            for step in range(1, quality_steps + 1)
        ),
        *(
            Trial(f"cold-{n:06d}", f"{n} tokens, cold", 1, {"kind": "cold", "tokens": n})
            for n in params.cold_tokens
        ),
    ]


def _child_trials(params: ContextLimitProbeParams) -> list[Trial]:
    found = []
    for dtype in params.dtypes:
        found.append(Trial(f"child-{dtype}", f"child {dtype}", 1, {"kind": "child", "dtype": dtype}))
        for step in range(1, params.cut_steps + 1):
            planned = {"kind": "child_cut", "dtype": dtype}
            found.append(Trial(f"child-{dtype}-cut-{step:02d}", f"child {dtype}", step + 1, planned))
    return found


def _replay_trials(params: ContextLimitProbeParams) -> list[Trial]:
    return [
        Trial(
            f"replay-{factor:.3f}",
            f"{factor:g} of TRIM_INTERVAL",
            1,
            {"kind": "replay", "factor": factor},
            requests=params.replay_exchanges,
        )
        for factor in sorted(params.interval_factors if params.replay_exchanges else [])
    ]


def check(params: ContextLimitProbeParams, plan: Plan, facts: EngineFacts) -> None:
    """Refuse cold prompts that the model cannot take, and a child that this machine cannot hold.

    The growing context may be as long as it likes.
    """
    room = facts.max_model_len
    if room is not None and params.cold_tokens and params.cold_tokens[-1] + params.decode_tokens > room:
        fix = (
            f"and {params.decode_tokens} generated tokens do not fit the model's context of {room}; "
            f"it may be {room - params.decode_tokens} at most"
        )
        raise InputError("cold_tokens", params.cold_tokens[-1], fix)
    if facts.engine is not None:
        _check_cold(params, facts.engine)
        if params.dtypes:
            _check_child(params, facts.engine)


def _check_cold(params: ContextLimitProbeParams, engine: Any) -> None:  # noqa: ANN401 - its own engine
    """Refuse a cold prompt that is shorter than the facts and a request: only token ids can be cut anywhere."""
    if not params.cold_tokens or (engine.identity.can("token_ids") and engine.identity.can("tokenizer")):
        return
    least = engine.counter(
        {"messages": material.conversation("0" * 16, params.needles, params.growth, params.text_seed, 0)}
    )
    if params.cold_tokens[0] < least:
        fix = f"is below the {least} tokens of the facts and one request, and this server takes no token ids; raise it"
        raise InputError("cold_tokens", params.cold_tokens[0], fix)


def _check_child(params: ContextLimitProbeParams, engine: Any) -> None:  # noqa: ANN401 - its own engine
    if params.in_process_model and not sys.platform.startswith("linux"):
        fix = "is loaded in a child whose memory only Linux limits; leave it out, set dtypes=[], or use WSL2"
        raise InputError("in_process_model", params.in_process_model, fix)
    named, free = params.in_process_model, psutil.virtual_memory().available
    if named and named[0] in "/.~" and not (Path(named).expanduser() / "config.json").is_file():
        raise InputError("in_process_model", named, "is not a folder with a config.json; name a model folder")
    if (named or engine.connection.embedded is not None) and params.headroom_mib * 2**20 > free:
        fix = f"is more than the {free // 2**20} MiB that are free on this machine; lower it"
        raise InputError("headroom_mib", params.headroom_mib, fix)


EXPERIMENT: Experiment[ContextLimitProbeParams] = Experiment(
    name="context_limit_probe",
    title="Context limit: how long a context may be, what a token costs, and the constants that follow",
    Params=ContextLimitProbeParams,
    proves="limits and times, whatever the server says of its cache",
    needs=(),
    open=lambda params, settings: Endpoint(settings),
    plan=plan,
    check=check,
    session=later(f"{__name__}.bench", "bench"),
    measure=later(f"{__name__}.measure", "measure"),
    findings=later(f"{__name__}.findings"),
)
