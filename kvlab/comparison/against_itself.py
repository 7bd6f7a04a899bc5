"""``kvlab compare --calibrate``: runs of one configuration against each other, to see how often they are called different."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kvlab.comparison import calibration, refusals, values
from kvlab.comparison.calibration import FalseAlarms
from kvlab.comparison.comparison import CONFIDENCE, SEED
from kvlab.comparison.sides import Side
from kvlab.errors import InputError
from kvlab.stats import ratios


@dataclass(frozen=True)
class Calibration:
    """How often equal runs are called different on this machine.

    Attributes:
        metric, margin: Of the comparison.
        between: Of whole runs against each other: what differs between starts, hours and loads is in it.
        within: Of each run's halves against each other: only what differs within a start is in it.
        rows: Every comparison of ``between``.
    """

    metric: str
    margin: float
    between: FalseAlarms
    within: FalseAlarms
    rows: Sequence[Mapping[str, Any]]


def calibrate(
    runs: Sequence[Side],
    *,
    read_params: Callable[[Mapping[str, Any]], Any],
    metric: str | None = None,
    margin: float | None = None,
) -> Calibration:
    """Compare runs of one configuration with each other.

    Args:
        runs: Two or more, each a side of its own.
        read_params: From what a run has stored of itself to its checked parameters.
        metric: In place of the one that the first has named.
        margin: In place of the one that the first has named.

    Raises:
        InputError: There are fewer than two, or two of them are not of one configuration.
    """
    if len(runs) < 2:
        raise InputError("--calibrate", None, "needs two or more runs of one configuration; name them")
    params = read_params(runs[0].first.stored)
    metric, margin = metric or params.compare_metric, margin or params.compare_margin
    for other in runs[1:]:
        against = refusals.objections(runs[0], other, metric, ())
        if not against and (found := _not_alike(runs[0], other)):
            against = [found]
        if against:
            raise InputError(
                "--calibrate",
                other.name,
                f"is no run of the same configuration: {against[0].field}: {against[0].why}",
            )
    tables = [values.table(side) for side in runs]
    own = [found[found["metric"] == metric].reset_index(drop=True) for found in tables]
    between, rows = calibration.between(own, margin, CONFIDENCE)
    named = [{**row, "first": runs[row["first"]].title, "second": runs[row["second"]].title} for row in rows]
    return Calibration(metric, margin, between, _within(own, margin), named)


def _not_alike(first: Side, second: Side) -> refusals.Objection | None:
    """Return what makes two runs no A/A: another engine, endpoint or machine."""
    contracts = [side.first.stored["contract"] for side in (first, second)]
    for field in ("engine", "endpoint", "machine"):
        if contracts[0].get(field) != contracts[1].get(field):
            return refusals.Objection(field, "it differs")
    return None


def _within(runs: Sequence[pd.DataFrame], margin: float) -> FalseAlarms:
    """Return how often the halves of a run are called different: even and odd trials, dealt at random by point."""
    rng, alarms, n = np.random.default_rng(SEED), 0, 0
    for run in runs:
        halves: list[dict[str, list[float]]] = [{}, {}]
        for point, part in run.groupby("point", sort=True):
            logs = rng.permutation(part["log"].to_numpy())
            halves[0][str(point)], halves[1][str(point)] = logs[::2].tolist(), logs[1::2].tolist()

        effect = ratios.stratified(*halves)
        if effect.error is not None:
            n += 1
            alarms += effect.outcome(margin, CONFIDENCE) in ("faster", "slower")
    if n:
        return calibration.counted(alarms, n, "halves of one run")
    return FalseAlarms(None, 0, None, None, "halves of one run", "the runs have too few trials")
