"""What the curve is held against: the same budget twice, a random policy, no context at all."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvlab.compression.transition.bins import zeroed
from kvlab.compression.transition.scores import FULL, Floats, Ints
from kvlab.stats.intervals import Interval
from kvlab.stats.scores import mean_interval


@dataclass(frozen=True)
class Resampling:
    """Of all intervals of a report."""

    confidence: float
    seed: int
    resamples: int

    def mean(self, values: Floats, clusters: Ints) -> Interval:
        """Return the mean of differences of scores with its interval over contexts."""
        return mean_interval(
            values, clusters, least=-1.0, seed=self.seed, confidence=self.confidence, draws=self.resamples
        )


@dataclass(frozen=True)
class NoiseFloor:
    """Budget 1.0 once more, beside the first time.

    Attributes:
        n: Examples with both answers.
        same: Of them, with the same tokens (the same text, where token ids are not stored).
        difference: Mean of first - second score, with its interval.
        absolute: Mean absolute difference of the two scores; ``None`` without a pair.
    """

    n: int
    same: int
    difference: Interval
    absolute: float | None


@dataclass(frozen=True)
class Beside:
    """A control's mean score beside that of the policy, on the same examples.

    Attributes:
        budget: Of both; ``None`` for the control without a context.
        n: Examples with both.
        policy: Mean score of the policy (at 1.0, for the control without a context).
        control: Mean score of the control.
        difference: policy - control, with its interval.
    """

    budget: float | None
    n: int
    policy: float | None
    control: float | None
    difference: Interval


def _pairs(first: pd.DataFrame, second: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, Ints]:
    both = first.assign(score=zeroed(first, metric)).merge(
        second.assign(score=zeroed(second, metric)), on="example_id", suffixes=("", "_second")
    )
    both = both.dropna(subset=["score", "score_second"]).sort_values("example_id", kind="stable")
    codes = pd.factorize(both["context_id"].astype(str), sort=True)[0]
    return both, np.asarray(codes, dtype=np.int64)


def _full(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["phase"] == "planned") & (frame["budget"] == FULL)]


def noise_floor(frame: pd.DataFrame, metric: str, how: Resampling) -> NoiseFloor:
    """Return how far budget 1.0 differs from itself: what no drop may be smaller than."""
    both, clusters = _pairs(_full(frame), frame[frame["phase"] == "noise_floor"], metric)
    answered = both[~both["failed"].astype(bool) & ~both["failed_second"].astype(bool)]
    key = "token_ids" if "token_ids" in answered.columns and answered["token_ids"].notna().all() else "text"
    same = int((answered[key] == answered[f"{key}_second"]).sum()) if len(answered) else 0
    rest = (both["score"] - both["score_second"]).to_numpy(dtype=float)
    return NoiseFloor(len(answered), same, how.mean(rest, clusters), floor(frame, metric))


def floor(frame: pd.DataFrame, metric: str) -> float | None:
    """Return the mean absolute difference of two scores at budget 1.0; ``None``: it was not answered twice."""
    answered = frame[~frame["failed"].astype(bool)]
    both, _ = _pairs(_full(answered), answered[answered["phase"] == "noise_floor"], metric)
    rest = (both["score"] - both["score_second"]).to_numpy(dtype=float)
    return float(np.abs(rest).mean()) if len(rest) else None


def _beside(
    first: pd.DataFrame, second: pd.DataFrame, metric: str, budget: float | None, how: Resampling
) -> Beside:
    both, clusters = _pairs(first, second, metric)
    a, b = (both[name].to_numpy(dtype=float) for name in ("score", "score_second"))
    means = [float(values.mean()) if len(values) else None for values in (a, b)]
    return Beside(budget, len(both), means[0], means[1], how.mean(a - b, clusters))


def random_policy(frame: pd.DataFrame, metric: str, how: Resampling) -> list[Beside]:
    """Return the policy beside randomly kept entries at equal budgets, descending: what its choice is worth."""
    control = frame[frame["phase"] == "control_random"]
    curve = frame[frame["phase"].isin(("planned", "added"))]
    return [
        _beside(
            curve[curve["budget"] == budget], control[control["budget"] == budget], metric, float(budget), how
        )
        for budget in sorted(control["budget"].unique(), reverse=True)
    ]


def no_context(frame: pd.DataFrame, metric: str, how: Resampling) -> Beside | None:
    """Return budget 1.0 beside the questions asked without their context; ``None`` where that was not done.

    What is right without the context needs no cache of it: no compression can take it away.
    """
    control = frame[frame["phase"] == "control_no_context"]
    return _beside(_full(frame), control, metric, None, how) if len(control) else None
