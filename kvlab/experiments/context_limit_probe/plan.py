"""What is done, in which order: the same for the same parameters, though most lengths are found on the way.

A trial's id says which step it is, not how long its prompt will be: a bisection step takes its
length from what the database holds when its turn comes, so a resumed run goes on where it was.
"""

from enum import StrEnum
from typing import Any

from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.records import Trial


class Kind(StrEnum):
    """The steps of a probe."""

    GROW = "grow"
    CUT = "cut"
    QUALITY = "quality"
    COLD = "cold"
    CHILD = "child"
    CHILD_CUT = "child_cut"
    REPLAY = "replay"


def plan(params: ContextLimitProbeParams) -> list[Trial]:
    """Return the trials: growth, bisection, quality, cold TTFT, the children, the replays."""
    found: list[Trial] = []

    def add(kind: Kind, trial_id: str, point: str, repeat: int, **planned: Any) -> None:  # noqa: ANN401 - JSON
        found.append(Trial(trial_id, len(found), point, repeat, {"kind": str(kind), **planned}))

    for count in params.exchanges:
        add(Kind.GROW, f"grow-{count:05d}", f"{count} exchanges", 1, exchanges=count)
    for step in range(1, params.cut_steps + 1):
        add(Kind.CUT, f"cut-{step:02d}", "bisection", step)
    for step in range(1, (params.quality_steps if params.needles else 0) + 1):
        add(Kind.QUALITY, f"quality-{step:02d}", "quality", step)
    for tokens in params.cold_tokens:
        add(Kind.COLD, f"cold-{tokens:06d}", f"{tokens} tokens, cold", 1, tokens=tokens)
    for dtype in params.dtypes:
        add(Kind.CHILD, f"child-{dtype}", f"child {dtype}", 1, dtype=dtype)
        for step in range(1, params.cut_steps + 1):
            add(Kind.CHILD_CUT, f"child-{dtype}-cut-{step:02d}", f"child {dtype}", step + 1, dtype=dtype)
    if params.replay_exchanges:
        for factor in sorted(params.interval_factors):
            add(Kind.REPLAY, f"replay-{factor:.3f}", f"{factor:g} of TRIM_INTERVAL", 1, factor=factor)
    return found
