"""KV-budget transition: with how little of the KV cache do answers stay right, and where do they break?

The keys and values of a context are what its answers are read from. A policy keeps a part of them,
the budget, and drops the rest for good. Attention looks at few entries, so much can go unnoticed;
but what is dropped before the question is known may be the answer. The same questions are asked at
each budget, out of one prefill, and the drop is tested within each question.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvlab.compression.datasets import Example, Manifest
from kvlab.demand import Demand
from kvlab.endpoints import engines
from kvlab.errors import InputError
from kvlab.experiment import EngineFacts, Experiment, Measuring, Plan, later
from kvlab.experiments.kv_budget_transition import local, prepared, remote, store
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams, metric_of
from kvlab.experiments.kv_budget_transition.plan import planned, timed, trials
from kvlab.experiments.kv_budget_transition.state import State
from kvlab.records import Trial
from kvlab.settings import Settings

if TYPE_CHECKING:
    from kvlab.session import Session


@dataclass(frozen=True)
class EngineFactory:
    """A model in this process, or an endpoint that must show that it applies budgets."""

    params: KVBudgetTransitionParams
    settings: Settings

    @property
    def in_process(self) -> str | None:
        """What the model runs on; ``None``: an endpoint answers."""
        return "torch" if self.params.in_process else None

    def open(self, check: engines.LengthCheck) -> Any:  # noqa: ANN401 - one of two engines
        """Load the model, or connect and let the endpoint prove its budgets.

        Raises:
            InputError: The model or the endpoint is wrong, or the endpoint does not prove its budgets.
            ServerError: The embedded server did not start.
        """
        if not self.params.in_process:
            return remote.open_engine(self.params, self.settings, check)
        from kvlab.compression import engine as transformers_kv

        chosen = self.params.engine
        options = transformers_kv.Options(chosen.dtype, chosen.device, chosen.attention)
        cache_bytes = int(chosen.prefill_cache_gib * 2**30)
        return transformers_kv.open_engine(self._with_model(), check, options, cache_bytes=cache_bytes)

    def keep_running(self, check: engines.LengthCheck) -> AbstractContextManager[None]:
        """Keep an endpoint up; of a model, only refuse what cannot work."""
        if not self.params.in_process:
            return engines.Endpoint(self.settings).keep_running(check)
        from kvlab.compression import engine as transformers_kv

        return transformers_kv.keep_running(self._with_model(), check)

    def _with_model(self) -> Settings:
        """Return the settings with the parameters' own model, if they name one."""
        named = self.params.engine.model
        return self.settings if named is None else self.settings.model_copy(update={"kvlab_model": named})


def make_plan(params: KVBudgetTransitionParams, folder: Path | None = None) -> Plan:
    """Plan one trial for each example and round, of the dataset of the run or of its source."""
    manifest = prepared.manifest(params, folder)
    every = tuple(trials(params, manifest))
    tables = store.rows_of(manifest)
    stored = store.assembled(tables["datasets"][0], tables["manifest_entries"], tables["examples"])
    tokens = sum(entry.token_len for entry in manifest.entries)
    edges = zip(manifest.bin_edges, manifest.bins, strict=True)
    return Plan(
        trials=every,
        costs={
            "examples": len(manifest.entries),
            **{
                f"of them in bin {bin_.bin_idx}, of up to {edge:,} tokens": bin_.chosen
                for edge, bin_ in edges
            },
            "answers that are planned": sum(len(planned(params, i)) for i in range(len(manifest.entries))),
            "budgets that may be added": params.rounds,
            "context tokens to prefill": tokens,
            "and at most, if nothing is kept for the added budgets": tokens * (1 + params.rounds),
            "answers taken alone, for their times": sum(bool(trial.planned["timed"]) for trial in every)
            * len(timed(params)),
        },
        contract={
            "dataset_hash": manifest.dataset_hash,
            "prompt_template_hash": manifest.template.hash,
            "tokenizer": f"{manifest.tokenizer.name} ({manifest.tokenizer.revision})",
            "policy": params.kv.policy,
            "query_mode": params.kv.query_mode,
        },
        demand=_demand(params, manifest, every),
        material=manifest,
        tables=tables,
        files={"dataset_manifest.json": stored.as_bytes()},
    )


def _demand(params: KVBudgetTransitionParams, manifest: Manifest, every: Sequence[Trial]) -> Demand:
    """Return what an endpoint is sent at most: each answer carries its whole prompt."""
    requests = sum(trial.requests for trial in every)
    if params.in_process:
        return Demand(requests=requests, why="the model is in this process, and nothing is sent")
    lengths = prepared.prompt_tokens(params, manifest)
    limits = {x.example_id: prepared.answer_limit(params, x) for _, x in manifest.items()}
    asked = [(str(trial.planned["example_id"]), trial.requests) for trial in every]
    return Demand(requests, sum(lengths[x] * n for x, n in asked), sum(limits[x] * n for x, n in asked))


def check(params: KVBudgetTransitionParams, plan: Plan, facts: EngineFacts) -> None:
    """Refuse a metric that the dataset has not, budgets that prune nothing or that nobody can apply, and prompts that with their answers do not fit."""
    manifest: Manifest = plan.material
    examples = [example for _, example in manifest.items()]
    metric_of(params, {str(example.meta["metric"]) for example in examples})
    _refuse_whole(params, min((entry.token_len for entry in manifest.entries), default=0))
    if not params.in_process:
        remote.check_asking(params)
    elif facts.engine is None:  # counting tails takes a tokenizer, and once is enough
        local.check_budgets(params, manifest)
    if facts.max_model_len is not None:
        _refuse_long(params, manifest, examples, facts.max_model_len)


def _refuse_long(
    params: KVBudgetTransitionParams, manifest: Manifest, examples: list[Example], max_model_len: int
) -> None:
    """Refuse a context that does not fit the model with its question and answer."""
    prompts = prepared.prompt_tokens(params, manifest)
    needed = {x.example_id: prompts[x.example_id] + prepared.answer_limit(params, x) for x in examples}
    longest = max(needed, key=lambda name: needed[name])
    if needed[longest] > max_model_len:
        fix = (
            f"tokens are what context, question and answer of {longest} need, and the model has "
            f"{max_model_len}; choose shorter ones (dataset.lengths_tokens, dataset.max_length_tokens)"
        )
        raise InputError("dataset", needed[longest], fix)


def _refuse_whole(params: KVBudgetTransitionParams, shortest: int) -> None:
    """Refuse a number of entries that keeps the shortest context whole."""
    whole = next((budget for budget in params.kv.budgets if budget > 1 and budget >= shortest), None)
    if whole is not None:
        fix = f"is no smaller than the shortest context, of {shortest} tokens, which it would keep whole; use fewer entries"
        raise InputError("kv.budgets", whole, fix)


@contextmanager
def _state(session: "Session[KVBudgetTransitionParams]") -> Iterator[State]:
    """Keep the dataset at hand, the pace of requests, and what is warm."""
    yield State(session.plan.material, session.params.engine.max_rpm)


def measure(session: "Session[KVBudgetTransitionParams]", trial: Trial) -> Measuring:
    """Ask one example under all arms of its round."""
    asked = local.ask if session.params.in_process else remote.ask
    return (yield from asked(session, trial))


EXPERIMENT: Experiment[KVBudgetTransitionParams] = Experiment(
    name="kv_budget_transition",
    title="KV-budget transition: where accuracy breaks, and how sure that is",
    Params=KVBudgetTransitionParams,
    proves="the KV entries kept, read from the cache's own tensors",
    open=EngineFactory,
    plan=make_plan,
    check=check,
    session=_state,
    measure=measure,
    findings=later(f"{__name__}.findings"),
    score=store.score,
    needs=(),
)
