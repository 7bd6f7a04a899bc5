"""Two configurations in turns: a block of one, the same block of the other, in random order, until it can be said.

Runs that are measured one after the other differ by whatever changed in between. In turns, both meet the same hour, and
which one is first in a block is drawn, so that what a neighbour leaves behind favours neither. After every block the
bets of `kvlab.stats.anytime` are looked at; looking costs nothing, so it ends as soon as something can be said.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from kvlab.comparison import values
from kvlab.comparison.calibration import FalseAlarms, counted
from kvlab.comparison.comparison import ends
from kvlab.records import Trial
from kvlab.runs.data import RunData
from kvlab.stats.anytime import Bets

#: Permutations of the false-alarm rate: each bets through all blocks again.
DRAWS = 400


class Measuring(Protocol):
    """What of a session is used (`kvlab.session.Session`)."""

    trials: tuple[Trial, ...]

    def measure(self, trial: Trial) -> Any:  # noqa: ANN401 - its requests
        """Measure a trial and store it."""

    def data(self) -> RunData:
        """Return what is stored so far."""


@dataclass(frozen=True)
class Block:
    """One block that both sides have measured.

    Attributes:
        trials: Its trials' ids.
        first_side: Which side was measured first: 0 or 1.
        log_ratio: Mean log(second / first) of its trials; ``None``: one side gave no value.
    """

    trials: tuple[str, ...]
    first_side: int
    log_ratio: float | None


def blocks(trials: Sequence[Trial], size: int) -> list[list[Trial]]:
    """Return the trials in blocks of ``size``, in the plan's order."""
    return [list(trials[start : start + size]) for start in range(0, len(trials), size)]


def run(
    sides: tuple[Measuring, Measuring],
    metric: str,
    bets: Bets,
    *,
    size: int,
    seed: int,
    say: Callable[[str], None] = print,
) -> Iterator[Block]:
    """Measure block after block of both sides, and yield each; ends when the bets say something.

    Args:
        sides: Two open sessions of one plan.
        metric: What decides, ``<arm>.<column>``.
        bets: Take the log ratio of every block.
        size: Trials a block.
        seed: Of the order within the blocks.
        say: Takes a line a block.
    """
    rng = random.Random(seed)  # noqa: S311 - the order of measuring, no secret
    arm, _ = values.split(metric)
    used = [trial for trial in sides[0].trials if not trial.planned.get("control")]
    for block in blocks(used, size):
        order = rng.sample((0, 1), 2)
        for side in order:
            for trial in block:
                sides[side].measure(trial)
        logs = [_logs(session, metric, [trial.trial_id for trial in block]) for session in sides]
        shared = sorted(set(logs[0]) & set(logs[1]))
        ratio = float(np.mean([logs[1][t] - logs[0][t] for t in shared])) if shared else None
        if ratio is not None:
            bets.add(ratio)
        found = bets.interval()
        seen = "no value of this block" if ratio is None else f"ratio of this block {np.exp(ratio):.3f}"
        told = ends(found.low, found.high) or "nothing ruled out"
        say(f"block {bets.n}, {arm}: {seen}; {told}: {bets.outcome}")
        yield Block(tuple(trial.trial_id for trial in block), order[0], ratio)
        if bets.outcome != "undecided":
            return


def _logs(session: Measuring, metric: str, trials: Sequence[str]) -> dict[str, float]:
    frame = session.data().requests
    frame = frame[frame["trial_id"].isin(trials)].assign(run=0, start="")
    table = values.table_of(frame)
    own = table[table["metric"] == metric]
    return {str(trial): float(log) for trial, log in zip(own["trial_id"], own["log"], strict=True)}


def false_alarms(log_ratios: Sequence[float], bets: Bets, *, seed: int, draws: int = DRAWS) -> FalseAlarms:
    """Return how often the same rule would have called two equal sides different on these blocks.

    The effect is taken out, and which side a block's times belong to is drawn anew; then all blocks are bet on in
    turn, with a look after each.
    """
    source = "permutation, with a look after every block"
    if len(log_ratios) < 6:
        return FalseAlarms(None, 0, None, None, source, f"{len(log_ratios)} blocks are too few")
    off = np.asarray(log_ratios) - np.mean(log_ratios)
    alarms = 0
    for signs in np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, len(off))):
        again = Bets(bets.margin, bets.confidence)
        for x in off * signs:
            if again.add(float(x)) != "undecided":
                break
        alarms += again.outcome in ("faster", "slower")
    return counted(alarms, draws, source)
