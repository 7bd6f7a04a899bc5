"""The parameters as the analysis reads them: flat, with every budget in one order."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams

if TYPE_CHECKING:
    import pandas as pd

#: In place of a score: 1 for an answer without a failure label, else 0.
ANSWERED = "answered"


@dataclass(frozen=True)
class Asked:
    """See `KVBudgetTransitionParams` for the fields; ``budgets`` are those of the answers' frame."""

    metric: str
    drop_threshold: float
    margin: float
    alpha: float
    confidence: float
    resamples: int
    seed: int
    budgets: tuple[float, ...]
    n_bins: int
    query_mode: str
    price_per_million_prompt_tokens: float | None
    price_per_million_completion_tokens: float | None

    @classmethod
    def of(cls, params: KVBudgetTransitionParams, answers: "pd.DataFrame") -> Self:
        """Return the parameters for these answers: a number of entries stands where it does there.

        The margin is at least the noise floor: a drop that budget 1.0 shows against itself is none.
        """
        from kvlab.compression.transition.controls import floor  # with pandas: only where there are answers

        metric = metric_of(params, set(answers["metric"].dropna()))
        noise = floor(answers, metric) or 0.0
        analysis = params.analysis.model_dump() | {"metric": metric}
        analysis["margin"] = max(params.analysis.margin, math.ceil(noise * 1e4) / 1e4)
        known = dict(zip(answers["asked"], answers["budget"], strict=True))
        return cls(
            **analysis,
            seed=params.seed,
            budgets=tuple(known.get(b, b) for b in params.kv.budgets if b in known or b <= 1),
            n_bins=answers.attrs.get("bins", params.dataset.bins),
            query_mode=params.kv.query_mode,
        )


def metric_of(params: KVBudgetTransitionParams, scored_by: set[str]) -> str:
    """Return the column that is the score: for a dataset that kvlab has no score for, `ANSWERED`.

    Args:
        params: Which may say ``auto``.
        scored_by: What the examples are scored by.

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
    if len(scored_by) == 1:
        return next(iter(scored_by))
    fix = (
        f"cannot be chosen: the examples are scored by {', '.join(sorted(scored_by)) or 'nothing'}; name one"
    )
    raise InputError("analysis.metric", "auto", fix)
