"""From the requests of a side to the values that are compared: one per trial, arm and metric, as logarithms."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from kvlab.comparison.sides import Side
from kvlab.stats import ratios
from kvlab.stats.ratios import Effect

#: Metrics of a request; of all of them less is better.
COLUMNS = ("ttft_ms", "latency_ms", "tpot_ms")
#: Of a trial of many requests: how long it took by how many it made; the inverse of its rate.
RATE = "s_per_request"
#: Metrics that depend on how many tokens were generated.
GENERATES = ("latency_ms", RATE)
_NUMBERED = re.compile(r"[/-]\d+$")


def stem(arm: object) -> str:
    """Return an arm's name without its number: ``shared_prefix/000012`` is of ``shared_prefix``."""
    return _NUMBERED.sub("", str(arm))


def split(metric: str) -> tuple[str, str]:
    """Return arm and column of a metric's name, ``hit.ttft_ms``."""
    arm, _, column = metric.rpartition(".")
    return arm, column


def table(side: Side) -> pd.DataFrame:
    """Return one row a value: metric, run, start, trial_id, point, log (natural, of ms or s), order (when it was sent).

    A value is the mean logarithm over a trial's requests of one arm: requests of a trial depend on each other.
    """
    return table_of(side.requests)


def table_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `table` of requests that have columns ``run`` and ``start``."""
    frame = frame[frame["used"] & (frame["status"] == "ok")]
    if frame.empty:
        return pd.DataFrame(columns=["metric", "run", "start", "trial_id", "point", "log", "order"])
    frame = frame.assign(stem=[stem(arm) for arm in frame["arm"]], order=np.arange(len(frame)))
    keys = ["run", "start", "trial_id", "point", "stem"]
    parts = []
    for column in COLUMNS:
        values = frame[column].astype("Float64").to_numpy(dtype=float, na_value=np.nan)
        known = frame[np.isfinite(values) & (values > 0)]
        logs = np.log(known[column].astype(float))
        grouped = known.assign(log=logs).groupby(keys, sort=False, dropna=False)
        parts.append(_rows(grouped, column))
    many = frame[frame["item"].notna()]
    if len(many):
        grouped = many.groupby(keys, sort=False, dropna=False)
        spans = grouped.agg(sent=("sent_ns", "min"), done=("done_ns", "max"), n=("sent_ns", "size"))
        seconds = (spans["done"].astype(float) - spans["sent"].astype(float)) / 1e9 / spans["n"]
        rates = (
            spans[seconds > 0].assign(log=np.log(seconds[seconds > 0].to_numpy(dtype=float))).reset_index()
        )
        parts.append(rates.assign(order=np.arange(len(rates)), metric=rates["stem"] + f".{RATE}"))
    found = pd.concat(parts, ignore_index=True)
    return found[["metric", "run", "start", "trial_id", "point", "log", "order"]]


def _rows(grouped: "pd.api.typing.DataFrameGroupBy", column: str) -> pd.DataFrame:  # type: ignore[type-arg]
    rows = grouped.agg(log=("log", "mean"), order=("order", "min")).reset_index()
    rows["metric"] = rows["stem"] + f".{column}"
    return rows


def pairs(first: pd.DataFrame, second: pd.DataFrame) -> pd.DataFrame:
    """Return the trials that both sides have measured: trial_id, point, log_first, log_second, in the first's order.

    The trials of several runs of a side are matched run by run, the first with the first.
    """
    keys = ["run", "trial_id"]
    joined = first.merge(second[[*keys, "log"]], on=keys, suffixes=("_first", "_second"))
    return joined.sort_values("order", ignore_index=True)


def effect(first: pd.DataFrame, second: pd.DataFrame, units: str = "starts") -> Effect:
    """Return the effect of one metric by the design that its values allow.

    Args:
        first: Its rows of `table` of one side.
        second: Those of the other.
        units: What the values of column ``start`` are: ``starts`` or ``runs``.
    """
    counts = [part["start"].nunique() for part in (first, second)]
    if min(counts) >= ratios.LEAST_STARTS:
        a, b = start_means(first, second)
        return ratios.over_starts(a, b, unit=f"{units} a side")
    matched = pairs(first, second)
    if len(matched) >= min(len(first), len(second)) / 2:
        return ratios.paired((matched["log_second"] - matched["log_first"]).tolist())
    a_points, b_points = (
        {str(point): group["log"].tolist() for point, group in part.groupby("point", sort=True)}
        for part in (first, second)
    )
    return ratios.stratified(a_points, b_points)


def start_means(first: pd.DataFrame, second: pd.DataFrame) -> tuple[list[float], list[float]]:
    """Return the mean logarithm of each start of either side, each value less what is usual at its point.

    A start need not have measured every point as often: what is taken off is the mean of the two sides' means.
    """
    means = [part.groupby("point")["log"].mean() for part in (first, second)]
    usual = (means[0] + means[1]).div(2).dropna()
    sides = []
    for part in (first, second):
        shared = part[part["point"].isin(usual.index)]
        off = shared["log"] - shared["point"].map(usual).astype(float)
        sides.append([float(v) for v in off.groupby(shared["start"], sort=False).mean()])
    return sides[0], sides[1]


def names(*tables: pd.DataFrame) -> Sequence[str]:
    """Return the metrics that every one of the tables has, sorted."""
    sets = [set(found["metric"]) for found in tables]
    return sorted(set.intersection(*sets)) if sets else []
