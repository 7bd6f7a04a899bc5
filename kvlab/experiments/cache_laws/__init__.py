"""Cache laws: what does *this* server's prefix cache reuse, how much, how long, and from whom?

A cache does not reuse every token that it has seen: it keeps them in units, computes the last token of
each prompt in any case, and may have a minimum. So hits are fewer than one expects, by an amount that
depends on the server. Prompts of controlled length that share a controlled part show the law, if the
server says how many tokens it read from its cache; and a law is claimed only if it then predicts prompts
that were held out, each exactly.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kvlab import paths
from kvlab.demand import Demand
from kvlab.endpoints.engines import Endpoint
from kvlab.errors import InputError
from kvlab.experiment import EngineFacts, Experiment, Plan, later
from kvlab.experiments.cache_laws import prompts
from kvlab.experiments.cache_laws.measure import measure
from kvlab.experiments.cache_laws.params import CacheLawsParams
from kvlab.experiments.cache_laws.witness import State, watching
from kvlab.laws import learn, lifetime
from kvlab.laws.sharing import REQUESTS_A_BLOCK
from kvlab.records import Trial
from kvlab.settings import Settings

if TYPE_CHECKING:
    from kvlab.session import Session

_SALT_BLOCKS, _REPLICA_REQUESTS, _ANSWERS = 12, 40, 3


def plan(params: CacheLawsParams, folder: Path | None = None) -> Plan:
    """Plan one trial for each part; its id is the part's name."""
    prices = _prices(params)
    costs: dict[str, int] = {}
    for part, (requests, tokens, seconds) in prices.items():
        if requests is not None:  # of the capacity, the tokens are the limit
            costs[f"{part}: requests at most"] = requests
        costs[f"{part}: prompt tokens at most"] = tokens
        if seconds:
            costs[f"{part}: seconds of waiting at most"] = round(seconds)
    costs["prompt tokens at most, in all"] = sum(tokens for _, tokens, _ in prices.values())
    return Plan(
        trials=tuple(
            Trial(part, part, 1, {"part": part}, commit="each", requests=prices[part][0] or 1)
            for part in params.parts
        ),
        costs=costs,
        contract={"prompt_template_hash": prompts.template_hash()},
        demand=_demand(params, prices),
    )


def _demand(params: CacheLawsParams, prices: dict[str, tuple[int | None, int, float]]) -> Demand:
    """Return what all parts send at most. Probes of the capacity are bounded by their tokens, not by their number."""
    known = [requests for requests, _, _ in prices.values() if requests is not None]
    tokens = sum(tokens for _, tokens, _ in prices.values())
    if len(known) < len(prices):
        return Demand(None, tokens, None, "the capacity is looked for by tokens, not by requests")
    a_request = params.fidelity_tokens if "fidelity" in params.parts else 1
    return Demand(sum(known), tokens, sum(known) * a_request)


def _prices(params: CacheLawsParams) -> dict[str, tuple[int | None, int, float]]:
    """Return what each part takes at most: requests, prompt tokens, seconds of waiting."""
    requests, tokens = learn.price(params.max_prompt_tokens, params.max_requests, params.start_tokens)
    waits, wait_s = lifetime.price(params.lifetime_limit_s)
    shared = _SALT_BLOCKS * REQUESTS_A_BLOCK + _REPLICA_REQUESTS
    answers = _ANSWERS * params.fidelity_prompts
    length = params.part_prompt_tokens
    found: dict[str, tuple[int | None, int, float]] = {
        "law": (requests, tokens, 0.0),
        "capacity": (None, params.capacity_tokens, 0.0),
        "lifetime": (waits, waits * length, min(wait_s, params.max_part_s + params.lifetime_limit_s)),
        "sharing": (shared, shared * length, 0.0),
        "fidelity": (answers, answers * length, 0.0),
    }
    return {part: found[part] for part in params.parts}


def check(params: CacheLawsParams, plan: Plan, facts: EngineFacts) -> None:
    """Refuse prompts that do not fit the context; the longest of the law is cut to it instead."""
    room = facts.max_model_len
    if room is None:
        return
    if params.start_tokens >= room // 2:
        fix = f"does not fit the model's context of {room} tokens twice; lower it below {room // 2}"
        raise InputError("start_tokens", params.start_tokens, fix)
    most = room - params.fidelity_tokens
    if set(params.parts) - {"law"} and params.part_prompt_tokens > most:
        fix = f"and its answer do not fit the model's context of {room} tokens; it may be {most} at most"
        raise InputError("part_prompt_tokens", params.part_prompt_tokens, fix)


@contextmanager
def session(session: "Session[CacheLawsParams]") -> Iterator[State]:
    """Find out how prompts can be made for this server, once, and store it."""
    maker = prompts.maker(session.engine)
    session.database.observe(None, "prompts", None, text=maker.how)
    with watching(session) as watch:
        yield State(maker, watch)


def _engine(params: CacheLawsParams, settings: Settings) -> Endpoint:
    """Return what to open; to fill its cache, the embedded server has a small one."""

    def flags() -> tuple[str, ...]:
        from kvlab.serving import witnessed  # only where it is needed: it looks for an engine
        from kvlab.serving.model import resolve_model

        if "capacity" not in params.parts or params.embedded_cache_blocks is None:
            return ()
        model = resolve_model(settings.kvlab_model, cache_dir=paths.cache_dir(), say=print)
        return witnessed.flags(model, params.embedded_cache_blocks, settings.extra_flags)

    return Endpoint(settings, flags)


EXPERIMENT: Experiment[CacheLawsParams] = Experiment(
    name="cache_laws",
    title="Cache laws: what a prefix cache reuses, how much it holds, how long, and from whom",
    Params=CacheLawsParams,
    proves="the law of reuse, by cached tokens of prompts that were predicted before they were sent",
    needs=("reuse",),  # whatever the law is: it is what is looked for
    open=_engine,
    plan=plan,
    check=check,
    session=session,
    measure=measure,
    findings=later(f"{__name__}.findings"),
)
