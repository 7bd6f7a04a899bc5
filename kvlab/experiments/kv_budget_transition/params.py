"""Parameters of the KV-budget transition, in groups: what is asked, of which model, under which budgets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from kvlab.compression import policies
from kvlab.compression.datasets.spec import DatasetSpec
from kvlab.errors import InputError
from kvlab.params import CompareMetric, Params
from kvlab.settings import Settings

#: A fraction of the context's entries in (0, 1], or a number of entries (2 or more).
Budget = Annotated[float, Field(gt=0, le=1)] | Annotated[int, Field(ge=2, le=10_000_000)]
Control = Literal["noise_floor", "random", "no_context"]


class Group(BaseModel):
    """Base of the groups: as strict as the parameters themselves."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class EngineGroup(Group):
    """What answers.

    Attributes:
        name: ``transformers_kv`` applies budgets to the cache itself; ``openai_compat`` asks an endpoint.
        model: For ``transformers_kv``: a folder or a hub's name; ``None``: ``KVLAB_MODEL``, else the packaged one.
        dtype: Of weights and cache.
        device: ``auto`` takes a GPU where there is one.
        attention: The attention implementation.
        prefill_cache_gib: Memory for prefilled contexts that later rounds use again.
        max_rpm: At most this many requests per minute are sent to an endpoint; ``None``: no pacing.
        extra_body: For an endpoint: what a request carries to ask for a budget, by the budget's text.
        kept_tokens_field: For an endpoint: the dotted path in its answer that says how many entries it kept.
        kept_tolerance_tokens: How far that may be from the plan; servers that keep whole blocks need more.
    """

    name: Literal["transformers_kv", "openai_compat"] = "transformers_kv"
    model: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: Literal["sdpa", "eager"] = "sdpa"
    prefill_cache_gib: float = Field(default=2.0, ge=0, le=1000)
    max_rpm: float | None = Field(default=None, gt=0, le=1_000_000)
    extra_body: dict[str, dict[str, Any]] = {}
    kept_tokens_field: str | None = Field(default=None, pattern=r"^[\w-]+(\.[\w-]+)*$")
    kept_tolerance_tokens: int = Field(default=1, ge=0, le=4096)


class KVGroup(Group):
    """Which entries are kept, and how many.

    Attributes:
        policy: An id of `kvlab.compression.policies`: a name with its parameters, such as ``snapkv-w64-k5-avg``.
        query_mode: ``agnostic``: the context is compressed before the question is known.
        budgets: Fractions of the context's entries, or numbers of entries; 1.0 among them.
        max_added_budgets: How many more the refinement may add where the drop is; none on an endpoint.
        min_budget_gap: It adds none nearer than this to another.
        controls: ``noise_floor``: budget 1.0 once more, on every second example; ``random``: a random policy at the same
            budgets; ``no_context``: the question alone.
        timed_per_bin: Examples per bin for the passes that take TTFT, latency and memory of each
            budget alone; 0: none. On an endpoint there are none: its answers have their own times.
    """

    policy: str = "snapkv-w64-k5-avg"
    query_mode: Literal["agnostic", "aware"] = "agnostic"
    budgets: list[Budget] = Field(default=[1.0, 0.5, 0.2], min_length=1, max_length=64)
    max_added_budgets: int = Field(default=3, ge=0, le=20)
    min_budget_gap: float = Field(default=0.02, gt=0, lt=1)
    controls: list[Control] = ["noise_floor", "random", "no_context"]
    timed_per_bin: int = Field(default=1, ge=0, le=1000)

    @field_validator("policy")
    @classmethod
    def _check_policy(cls, policy: str) -> str:
        try:
            return policies.get(policy).id
        except InputError as error:
            raise ValueError(error.fix) from None

    @field_validator("budgets")
    @classmethod
    def _check_budgets(cls, budgets: list[float | int]) -> list[float | int]:
        if len(set(budgets)) < len(budgets):
            raise ValueError("holds a budget twice")
        if 1.0 not in budgets:
            raise ValueError("must hold 1.0, which the others are compared with")
        return sorted(budgets, key=lambda budget: (budget > 1, budget), reverse=True)


class DecodingGroup(Group):
    """How answers are made; decoding is greedy.

    Attributes:
        max_new_tokens: ``None``: what the example's task asks for.
        temperature: 0; a budget's effect must not drown in sampling.
    """

    max_new_tokens: int | None = Field(default=None, ge=1, le=100_000)
    temperature: float = Field(default=0.0, ge=0, le=0)


class AnalysisGroup(Group):
    """What is made of the answers.

    Attributes:
        metric: What counts as accuracy: ``f1``, ``em``, ``contains``, or ``auto``: what the dataset's
            examples are scored by (F1 for questions, ``contains`` for retrieval).
        drop_threshold: Of the point rule: a drop of the mean against the next higher budget.
        margin: Of the calibrated rule: a drop that is worth calling a transition.
        alpha: Its error rate over all looks.
        confidence: Of all intervals.
        resamples: Of the draws of every interval.
        price_per_million_prompt_tokens: For the cost proxy; ``None``: none is given.
        price_per_million_completion_tokens: The same for generated tokens.
    """

    metric: Literal["auto", "f1", "em", "contains"] = "auto"
    drop_threshold: float = Field(default=0.10, gt=0, le=1)
    margin: float = Field(default=0.05, ge=0, lt=1)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    resamples: int = Field(default=10_000, ge=200, le=1_000_000)
    price_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    price_per_million_completion_tokens: float | None = Field(default=None, ge=0)


class KVBudgetTransitionParams(Params):
    """Parameters of the KV-budget transition, in five groups.

    Attributes:
        tokenizer: What lengths are counted with: a folder or a hub's name; ``None``: the model's own,
            and for an endpoint the packaged model's.
    """

    compare_metric: CompareMetric = "timed:snapkv-w64-k5-avg@1.ttft_ms"

    analysis_fields: ClassVar[tuple[str, ...]] = ("analysis", "max_failed_fraction")
    how_fields: ClassVar[tuple[str, ...]] = (
        "max_attempts",
        "outage_s",
        "engine.max_rpm",
        "engine.prefill_cache_gib",
    )

    tokenizer: str | None = None
    dataset: DatasetSpec = DatasetSpec()
    engine: EngineGroup = EngineGroup()
    kv: KVGroup = KVGroup()
    decoding: DecodingGroup = DecodingGroup()
    analysis: AnalysisGroup = AnalysisGroup()

    @classmethod
    def obsolete_after(cls, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
        """Return the dataset's parameters that were meant for the dataset before."""
        old, new = before.get("dataset") or {}, after.get("dataset") or {}
        if not isinstance(old, Mapping) or not isinstance(new, Mapping):
            return []  # refused as a whole, by name
        if new.get("manifest") is not None:
            return [f"dataset.{field}" for field in DatasetSpec.meaningless(None)]
        name = new.get("name", DatasetSpec().name)
        if name == old.get("name", DatasetSpec().name):
            return []
        return [f"dataset.{field}" for field in (*DatasetSpec.meaningless(name), "pinned")]

    def places(self, settings: Settings) -> dict[str, Path]:
        """Return where the dataset is kept."""
        from kvlab.experiments.kv_budget_transition import prepared

        return {"dataset": prepared.path_of(self, settings)}

    @property
    def in_process(self) -> bool:
        """Whether a model in this process answers, and no endpoint."""
        return self.engine.name == "transformers_kv"

    @property
    def rounds(self) -> int:
        """How many budgets the refinement may add with this engine."""
        return self.kv.max_added_budgets if self.in_process else 0

    @property
    def timed_per_bin(self) -> int:
        """How many examples per bin are asked once more for their times; an endpoint's answers have their own."""
        return self.kv.timed_per_bin if self.in_process else 0


#: In place of a score: 1 for an answer without a failure label, else 0.
ANSWERED = "answered"


def metric_of(params: KVBudgetTransitionParams, scored_by: set[str]) -> str:
    """Return the column that is the score: for a dataset that kvlab has no score for, `ANSWERED`.

    Args:
        params: Which may say ``auto``.
        scored_by: What the dataset's examples are scored by, whether they were answered or not.

    Raises:
        InputError: ``auto``, and the examples are scored in several ways; or a score that a dataset without any has not.
    """
    if scored_by == {"none"}:
        if params.analysis.metric == "auto":
            return ANSWERED
        fix = "cannot be computed: this task has no score here; choose auto, for failures and costs alone"
        raise InputError("analysis.metric", params.analysis.metric, fix)
    if params.analysis.metric != "auto":
        return params.analysis.metric
    if len(scored_by) > 1:
        fix = f"cannot be chosen: the examples are scored by {', '.join(sorted(scored_by))}; name one"
        raise InputError("analysis.metric", "auto", fix)
    return next(iter(scored_by), ANSWERED)  # of no example nothing can be said in any metric
