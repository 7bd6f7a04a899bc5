"""Opening what answers: a model in this process, or an endpoint that has shown that it applies budgets."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kvlab.endpoints import engines
from kvlab.endpoints import openai as openai_compat
from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.settings import Settings

if TYPE_CHECKING:
    from kvlab.endpoints.openai import OpenAICompat


def with_model(params: KVBudgetTransitionParams, settings: Settings) -> Settings:
    """Return the settings with the parameters' own model, if they name one."""
    if params.engine.model is None:
        return settings
    return settings.model_copy(update={"kvlab_model": params.engine.model})


def open_engine(params: KVBudgetTransitionParams, settings: Settings, check: engines.Check) -> Any:  # noqa: ANN401 - one of two engines
    """Open the engine that ``params`` name.

    Raises:
        InputError: The model or the endpoint is wrong, or the endpoint does not prove its budgets.
        ServerError: The embedded server did not start.
    """
    if params.engine.name == "openai_compat":
        return _endpoint(params, settings, check)
    from kvlab.compression import engine as transformers_kv

    engine = params.engine
    options = transformers_kv.Options(engine.dtype, engine.device, engine.attention)
    cache_bytes = int(engine.prefill_cache_gib * 2**30)
    return transformers_kv.open_engine(with_model(params, settings), check, options, cache_bytes=cache_bytes)


def check(params: KVBudgetTransitionParams, settings: Settings) -> int | None:
    """Refuse what can be known to be wrong before anything is opened. Returns the longest context in tokens, if known.

    Raises:
        InputError: The model is not there, or an endpoint could not show its budgets.
    """
    if params.engine.name == "openai_compat":
        _check_asking(params)
        return None
    from kvlab.compression import engine as transformers_kv

    return transformers_kv.find(with_model(params, settings)).max_model_len


def _endpoint(params: KVBudgetTransitionParams, settings: Settings, check: engines.Check) -> "OpenAICompat":
    _check_asking(params)
    opened = openai_compat.open_engine(settings, check)
    client = opened.connection.client
    client.target = replace(client.target, kept_path=params.engine.kept_tokens_field)
    try:
        from kvlab.experiments.kv_budget_transition import remote

        remote.prove_budgets(params, opened)
    except BaseException:
        opened.close()
        raise
    return opened


def _check_asking(params: KVBudgetTransitionParams) -> None:
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
    from kvlab.compression.policies import Budget

    labels = [Budget.of(budget).label for budget in smaller]
    missing = [label for label in labels if label not in params.engine.extra_body]
    why = "would be a label and no measurement"
    if missing:
        fix = f"on an endpoint {why}: engine.extra_body says for no {missing[0]} how to ask for it; add it, or use [1.0]"
        raise InputError("kv.budgets", params.kv.budgets, fix)
    if params.engine.kept_tokens_field is None:
        fix = f"on an endpoint {why}: name the field of its answer that proves them (engine.kept_tokens_field), or use [1.0]"
        raise InputError("kv.budgets", params.kv.budgets, fix)
