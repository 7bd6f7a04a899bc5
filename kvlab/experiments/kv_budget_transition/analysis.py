"""From the answers of a run to everything that its report says of them, computed once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from kvlab.compression.transition import bins, controls, efficiency, failures, flips, sanity
from kvlab.compression.transition.detect import BinCall, Call, call, call_bins, drops_of
from kvlab.compression.transition.drop import Drop
from kvlab.compression.transition.location import Location, locate
from kvlab.compression.transition.point_rule import PointTransition, point_rule
from kvlab.compression.transition.power import Detectable, minimum_detectable
from kvlab.compression.transition.scores import CURVE, FULL, Scores, Treatment, collect


class AnalysisParams(Protocol):
    """What the analysis needs of the parameters."""

    @property
    def metric(self) -> str:
        """The score: ``f1``, ``em`` or ``contains``."""

    @property
    def drop_threshold(self) -> float:
        """Of the point rule."""

    @property
    def margin(self) -> float:
        """Of the calibrated rule: a smaller drop is none."""

    @property
    def alpha(self) -> float:
        """Of the calibrated rule, both directions together."""

    @property
    def confidence(self) -> float:
        """Of the intervals."""

    @property
    def resamples(self) -> int:
        """Draws of each interval."""

    @property
    def seed(self) -> int:
        """Of every draw."""

    @property
    def budgets(self) -> Sequence[float]:
        """The planned ones."""

    @property
    def n_bins(self) -> int:
        """How many length bins there are, the empty ones too."""

    @property
    def query_mode(self) -> str:
        """``agnostic`` or ``aware``."""

    @property
    def price_per_million_prompt_tokens(self) -> float | None:
        """Of the cost proxy."""

    @property
    def price_per_million_completion_tokens(self) -> float | None:
        """Of the cost proxy."""


@dataclass(frozen=True)
class Analysis:
    """All results of a run; the functions that make them say what they are.

    Attributes:
        frame: The answers of the run's query mode.
        focus: The budget that bins, failures and flips are read at: that of the call, without one the
            budget with the largest mean drop; ``None`` where there is nothing below 1.0.
    """

    frame: pd.DataFrame
    scores: Scores
    drops: tuple[Drop, ...]
    call: Call
    bin_calls: list[BinCall]
    point: PointTransition
    half: Location
    margin: Location
    detectable: Detectable
    bin_detectable: list[Detectable]
    focus: float | None
    worst: list[float | None]
    flips: list[flips.Flips]
    parts: list[failures.Parts]
    treatments: dict[Treatment, Call]
    integrity: pd.DataFrame
    noise: controls.NoiseFloor
    random: list[controls.Beside]
    no_context: controls.Beside | None
    assertions: list[sanity.Assertion]
    efficiency: pd.DataFrame

    @property
    def called_drop(self) -> Drop | None:
        """The drop at the call's budget; without a call, at the smallest planned one."""
        drops = self.call.drops
        at = next((drop for drop in drops if drop.budget == self.call.fails_at), None)
        return at or (drops[-1] if drops else None)


def analyse(frame: pd.DataFrame, params: AnalysisParams) -> Analysis:
    """Return all results of the answers.

    Args:
        frame: One row an answer; see `kvlab.compression.transition.scores.collect` for the columns it must have.
        params: The parameters.

    Raises:
        InputError: The metric is not there, or an example has two answers at one budget.
    """
    frame = frame[frame["query_mode"] == params.query_mode]
    scores = collect(frame, params.metric, params.budgets)
    rule: dict[str, Any] = {"margin": params.margin, "alpha": params.alpha, "seed": params.seed}
    draws: dict[str, Any] = {"seed": params.seed, "resamples": params.resamples}
    made = call(scores, **rule)
    focus = made.fails_at if made.fails_at is not None else _largest_drop(made.drops)
    how = controls.Resampling(params.confidence, params.seed, params.resamples)
    place = {"margin": params.margin, "confidence": params.confidence, **draws}
    return Analysis(
        frame=frame,
        scores=scores,
        drops=drops_of(scores, **rule),
        call=made,
        bin_calls=call_bins(scores, n_bins=params.n_bins, **rule),
        point=point_rule(
            scores.plan.budgets, scores.plan.filled(), scores.bins, threshold=params.drop_threshold
        ),
        half=locate(scores, threshold="half", **place),
        margin=locate(scores, threshold="margin", **place),
        detectable=_detectable(scores, params, 1),
        bin_detectable=[
            _detectable(scores.only(scores.bins == b), params, params.n_bins) for b in range(params.n_bins)
        ],
        focus=focus,
        worst=[None] * params.n_bins
        if focus is None
        else bins.worst_bin(scores, focus, n_bins=params.n_bins, **draws),
        flips=flips.every(scores),
        parts=[failures.decompose(scores, float(budget)) for budget in scores.budgets[1:]],
        treatments=failures.by_treatment(scores, **rule),
        integrity=failures.integrity(frame[frame["phase"].isin(CURVE)]),
        noise=controls.noise_floor(frame, params.metric, how),
        random=controls.random_policy(frame, params.metric, how),
        no_context=controls.no_context(frame, params.metric, how),
        assertions=sanity.assertions(scores, margin=params.margin, alpha=params.alpha, seed=params.seed),
        efficiency=efficiency.profile(
            frame,
            price_per_million_prompt_tokens=params.price_per_million_prompt_tokens,
            price_per_million_completion_tokens=params.price_per_million_completion_tokens,
        ),
    )


def _largest_drop(drops: Sequence[Drop]) -> float | None:
    known = [(drop.estimate, drop.budget) for drop in drops if drop.estimate is not None]
    return max(known)[1] if known else None


def _detectable(scores: Scores, params: AnalysisParams, looks: int) -> Detectable:
    plan = scores.plan
    drops = plan.drops()[:, plan.budgets < FULL]
    return minimum_detectable(drops, plan.clusters, margin=params.margin, level=params.alpha / 2 / looks)


def bin_stats(frame: pd.DataFrame, params: AnalysisParams) -> pd.DataFrame:
    """Return one row a policy, budget and bin: `kvlab.compression.transition.bins.BIN_COLUMNS`, missing as NaN or ``None``."""
    return bins.bin_table(
        frame[frame["query_mode"] == params.query_mode],
        metric=params.metric,
        n_bins=params.n_bins,
        confidence=params.confidence,
        seed=params.seed,
        resamples=params.resamples,
    )


def transition_summary(frame: pd.DataFrame, params: AnalysisParams) -> dict[str, Any]:
    """Return what both rules say, flat; see `summary_of`."""
    return summary_of(analyse(frame, params), params)


def summary_of(found: Analysis, params: AnalysisParams) -> dict[str, Any]:
    """Return one row for the database: the point rule under its own names, then the calibrated rule.

    ``transition_budget``, ``pre_budget``, ``acc_pre``, ``acc_post``, ``drop``, ``method`` and
    ``transition_bin_idx`` are the point rule's. ``call_…`` are the calibrated rule's, ``location_…`` the
    interval of the middle of the fall, ``loss_…`` that of the first loss of a margin. Budgets are as the
    parameters write them: above 1 they are numbers of entries. Missing is ``None``.
    """
    drop = found.called_drop
    asked = found.scores.as_asked
    shares = [share if share is not None else -1.0 for share in found.worst]
    worst = int(np.argmax(shares)) if shares and max(shares) >= 0 else None
    return {
        "metric": params.metric,
        "query_mode": params.query_mode,
        **_as_asked(found, asdict(found.point)),
        "drop_threshold": params.drop_threshold,
        "call_outcome": found.call.outcome,
        "call_fails_at": asked(found.call.fails_at),
        "call_holds_at": asked(found.call.holds_at),
        "call_budget": None if drop is None else asked(drop.budget),
        "call_drop": None if drop is None else drop.estimate,
        "call_drop_low": None if drop is None else drop.low,
        "call_drop_high": None if drop is None else drop.high,
        "call_p_value": None if drop is None or not drop.n else drop.p_exceeds,
        "call_alpha": params.alpha,
        "call_margin": params.margin,
        **{
            f"location_{key}": value
            for key, value in _as_asked(found, asdict(found.half)).items()
            if key != "threshold"
        },
        **{
            f"loss_{key}": value
            for key, value in _as_asked(found, asdict(found.margin)).items()
            if key != "threshold"
        },
        "minimum_detectable_drop": found.detectable.drop,
        "minimum_detectable_reason": found.detectable.reason,
        "bins_called": [item.bin_idx for item in found.bin_calls if item.falls],
        "worst_bin_idx": worst,
        "worst_bin_share": None if worst is None else found.worst[worst],
        "budgets_planned": [asked(budget) for budget in found.scores.plan.budgets.tolist()],
        "budgets_added": [asked(budget) for budget in found.scores.budgets[~found.scores.planned].tolist()],
    }


def _as_asked(found: Analysis, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its budgets as the parameters write them."""
    budgets = ("transition_budget", "pre_budget", "below", "above", "low", "high")
    return {key: found.scores.as_asked(value) if key in budgets else value for key, value in row.items()}
