"""From what was measured to constants that can be pasted, each with the rule it came from."""

import math
from dataclasses import dataclass

from kvlab.escape import comment, env_value, python_literal
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams


@dataclass(frozen=True)
class Constant:
    """One constant.

    Attributes:
        rule: How its value came about, with the figures.
    """

    name: str
    value: int
    rule: str


@dataclass(frozen=True)
class Measured:
    """What the constants are made from, in tokens.

    Attributes:
        maximum: The measured maximum context.
        because: What ends there.
        system: The part that no trim removes, the request that is asked included.
        growth: The most that one exchange (a request and its answer) has added.
    """

    maximum: int
    because: str
    system: int
    growth: float


def recommend(measured: Measured, params: ContextLimitProbeParams) -> list[Constant]:
    """Return MAX_CONTEXT_TOKENS, CONTEXT_TRIM_THRESHOLD, TRIM_INTERVAL and KEEP_MESSAGES, in this order.

    The maximum stays strictly below the safe share of what was measured. After a trim the context is
    the fixed part and the kept messages; an interval later it has grown by one interval's exchanges
    and must still be within the threshold.

    An empty list: the context is so short that no exchange fits beside what a trim keeps.
    """
    safe = params.safe_fraction
    largest = math.ceil(safe * measured.maximum) - 1
    threshold = math.floor(params.trim_threshold_fraction * largest)
    target = math.floor(params.trim_target_fraction * threshold)
    kept = max(1, math.floor((target - measured.system) / measured.growth))
    interval = math.floor((threshold - measured.system - kept * measured.growth) / measured.growth)
    if interval < 1:
        return []
    growth = f"{measured.growth:.0f} tokens"
    return [
        Constant(
            "MAX_CONTEXT_TOKENS",
            largest,
            f"the largest whole number below {safe:.0%} of the measured maximum of {measured.maximum:,} tokens "
            f"({measured.because})",
        ),
        Constant(
            "CONTEXT_TRIM_THRESHOLD",
            threshold,
            f"{params.trim_threshold_fraction:.0%} of MAX_CONTEXT_TOKENS: one more answer fits before the maximum",
        ),
        Constant(
            "TRIM_INTERVAL",
            interval,
            f"exchanges from one trim to the next: from the {kept} that are kept up to the threshold, at {growth} "
            "an exchange (the most that was measured)",
        ),
        Constant(
            "KEEP_MESSAGES",
            2 * kept,
            f"{kept} exchanges of 2 messages, at least one: what fits into {params.trim_target_fraction:.0%} of the "
            f"threshold ({target:,} tokens) beside {measured.system} fixed tokens, at {growth} an exchange",
        ),
    ]


def value(constants: list[Constant], name: str) -> int:
    """Return one constant's value (KeyError: there is none of that name)."""
    return {constant.name: constant.value for constant in constants}[name]


def as_env(constants: list[Constant]) -> str:
    """Return lines for an ``.env`` file, each below its rule."""
    return "".join(f"# {comment(item.rule)}\n{item.name}={env_value(item.value)}\n" for item in constants)


def as_python(constants: list[Constant]) -> str:
    """Return lines of Python, each below its rule."""
    return "".join(
        f"# {comment(item.rule)}\n{item.name} = {python_literal(item.value)}\n" for item in constants
    )
