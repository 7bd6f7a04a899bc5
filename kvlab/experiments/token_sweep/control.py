"""The position control: a hit is always the second request of its pair, and being second may be worth something.

A control pair is two cold prompts one after the other. By how much its second one is faster is the position's
effect; what the hits save beyond it is what the cache saves (`kvlab.stats.position`).
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from kvlab.evidence import CacheState
from kvlab.experiments.token_sweep.params import TokenSweepParams
from kvlab.findings import Check
from kvlab.stats import Interval, decide
from kvlab.stats.position import corrected_reduction, position_effect

#: Fewer pairs say nothing of the most that being second may be worth.
LEAST_CONTROLS = 4


@dataclass(frozen=True)
class Control:
    """What the control pairs say.

    Attributes:
        planned: How many there should be; 0 in runs without any.
        proven: How many were measured with both requests proven cold.
        effect: By which share the second request of a control pair is faster.
        corrected: The share of the TTFT that a hit saves beyond that.
        least: What is left of the lower end of the saving beside the control pair whose second request gained
            most; ``None``: unknown. It needs no interval of the controls, which few or like ones do not give.
    """

    planned: int
    proven: int
    effect: Interval
    corrected: Interval
    least: float | None = None

    @classmethod
    def of(
        cls,
        requests: pd.DataFrame,
        valid: pd.DataFrame,
        reduction: Interval,
        planned: int,
        params: TokenSweepParams,
    ) -> "Control":
        """Work it out from the requests and the valid pairs (`findings.pairs`)."""
        first, second = _proven_cold(requests)
        effect = position_effect(first, second, confidence=params.confidence)
        corrected = corrected_reduction(
            valid["cold_ttft_ms"].astype(float).tolist(),
            valid["hit_ttft_ms"].astype(float).tolist(),
            first,
            second,
            confidence=params.confidence,
        )
        least = None
        if reduction.low is not None and len(first) >= LEAST_CONTROLS:
            fastest = min(b / a for a, b in zip(first, second, strict=True))
            least = 1 - (1 - reduction.low) / min(1.0, fastest)
        return cls(planned, len(first), effect, corrected, least)

    def check(self, params: TokenSweepParams) -> Check:
        """Return whether what the hits save beyond their place reaches the margin."""
        margin = params.ttft_min_reduction_fraction
        asks = f"beyond what being the second request is worth, a hit saves ≥ {margin:.0%} of the TTFT"
        if not self.planned:
            return Check(
                name="saving_beyond_position",
                asks=asks,
                seen="no control pairs were measured: whatever the second place is worth is in the saving",
                passed=None,
                role="note",
            )
        decision, beyond_all = decide(self.corrected, margin), ""
        if decision == "undecided" and self.least is not None and self.least >= margin:
            decision = "above"
            beyond_all = (
                f"; beside the control pair that gained most, the lower end of the saving is {self.least:.1%}"
            )
        return Check(
            name="saving_beyond_position",
            asks=asks,
            seen=f"{self.proven} of {self.planned} control pairs proven cold twice; being second is worth "
            f"{percent(self.effect)}; a hit saves {percent(self.corrected)} beyond that{beyond_all}",
            passed=None if decision == "undecided" else decision == "above",
            role="power" if decision == "undecided" else "criterion",
            advice="raise position_controls or repeats" if decision == "undecided" else "",
        )

    def results(self) -> dict[str, Any]:
        """Return the numbers of ``summary.json``."""
        found: dict[str, Any] = {
            "control_pairs_planned": self.planned,
            "control_pairs_proven": self.proven,
            "reduction_beside_largest_position_effect": self.least,
        }
        for name, interval in (("position_effect", self.effect), ("corrected_reduction", self.corrected)):
            found |= {
                name: interval.estimate,
                f"{name}_low": interval.low,
                f"{name}_high": interval.high,
                f"{name}_reason": interval.reason if self.planned else "no control pairs were planned",
            }
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}


def percent(interval: Interval) -> str:
    """Return a share with its interval in words."""
    if interval.estimate is None:
        return f"an unknown share ({interval.reason})"
    if interval.low is None or interval.high is None:
        return f"{interval.estimate:.1%} (no interval: {interval.reason})"
    return f"{interval.estimate:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _proven_cold(requests: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Return the TTFTs of the first and second requests of the control pairs that are proven cold twice, in ms."""
    used = requests[requests["used"] & (requests["status"] == "ok")]
    cold = used[(used["cache_state"] == CacheState.COLD) & used["ttft_ms"].notna()]
    arms = [
        cold[cold["arm"] == arm].set_index("trial_id")["ttft_ms"].astype(float)
        for arm in ("control_first", "control_second")
    ]
    both = pd.concat(arms, axis=1, keys=["first", "second"], join="inner")
    return both["first"].tolist(), both["second"].tolist()
