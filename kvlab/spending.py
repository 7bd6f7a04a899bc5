"""What a plan may send without a question: one rule for commands, stages and notebooks.

A server of this machine costs nothing but time. Any other endpoint may send a bill, so that a plan above
the limits of the settings needs a yes, and so does one whose size is unknown.
"""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from kvlab.demand import Demand
from kvlab.errors import InputError
from kvlab.experiment import Experiment
from kvlab.settings import Settings

_PRICES = ("price_per_million_prompt_tokens", "price_per_million_completion_tokens")


def is_elsewhere(url: str | None) -> bool:
    """Whether requests to a URL leave this machine, by its host's form alone; no name is looked up."""
    if url is None:
        return False
    host = (urlsplit(url).hostname or "").removesuffix(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return True
    mapped = getattr(address, "ipv4_mapped", None) or address
    return not mapped.is_loopback


def objection(
    experiment: Experiment[Any],
    params: Any,  # noqa: ANN401 - the experiment's own
    demand: Demand,
    settings: Settings,
) -> str | None:
    """Return what somebody must say yes to before anything is sent; ``None``: nothing.

    Args:
        experiment: Whose plan it is.
        params: Its parameters.
        demand: What the plan sends at most.
        settings: Which endpoint, and the limits.
    """
    if not is_elsewhere(settings.openai_base_url):
        return None
    if experiment.open(params, settings).in_process is not None:
        return None
    most_requests, most_tokens = settings.kvlab_ask_above_requests, settings.kvlab_ask_above_tokens
    requests, tokens = demand.requests, demand.tokens
    if requests is not None and requests <= most_requests and tokens is not None and tokens <= most_tokens:
        return None
    cost = money(demand, params, settings)
    return (
        f"{experiment.name} may send {words(demand)} to {settings.openai_base_url} "
        f"({'price unknown' if cost is None else f'at most {cost:,.2f} at the given prices'}), and more than "
        f"{most_requests:,} requests or {most_tokens:,} tokens need a yes"
    )


def require(
    experiment: Experiment[Any],
    params: Any,  # noqa: ANN401 - the experiment's own
    demand: Demand,
    settings: Settings,
) -> None:
    """Refuse a plan that needs a yes, where nobody can be asked.

    Raises:
        InputError: It does; nothing has been sent.
    """
    if found := objection(experiment, params, demand, settings):
        raise InputError("yes", None, f"is missing: {found}; pass yes=True, or choose a smaller profile")


def words(demand: Demand) -> str:
    """Return a demand for people."""
    requests = "an unknown number of" if demand.requests is None else f"up to {demand.requests:,}"
    if demand.tokens is None:
        return f"{requests} requests and an unknown number of tokens ({demand.why})"
    return f"{requests} requests and {demand.tokens:,} tokens"


def prices(params: Any, settings: Settings) -> tuple[float | None, float | None]:  # noqa: ANN401 - any Params
    """Return the prices of a million prompt tokens and completion tokens: the parameters', else the settings'."""
    found = []
    for name in _PRICES:
        own = getattr(params, name, None)
        if own is None:
            own = getattr(getattr(params, "analysis", None), name, None)
        found.append(getattr(settings, f"kvlab_{name}") if own is None else own)
    return found[0], found[1]


def money(demand: Demand, params: Any, settings: Settings) -> float | None:  # noqa: ANN401 - any Params
    """Return what a plan costs at most, nothing taken off for cached tokens; ``None``: unknown."""
    prompt, completion = prices(params, settings)
    if None in (prompt, completion) or demand.prompt_tokens is None or demand.completion_tokens is None:
        return None
    assert prompt is not None and completion is not None  # noqa: S101, PT018 - for the type checker
    return (demand.prompt_tokens * prompt + demand.completion_tokens * completion) / 1e6
