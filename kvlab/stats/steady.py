"""The steady state of a trial: what is left when its start-up and its drain are cut off.

At first every place is filled at once, and at the end places stay empty: both say more about a trial's
length than about the server. The start-up ends when as many requests are answered as were sent before the
first answer; the drain begins when the last request is sent.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

MOST_WINDOWS = 20
LEAST_REQUESTS = 4  # in a window
LEAST_WINDOWS = 2


class Steady(NamedTuple):
    """A trial's steady state.

    Attributes:
        start_s, end_s: Its borders, in seconds after the trial's first request.
        total_s: From the trial's first request sent to its last answer.
        windows: Of each window: start_s, end_s, requests, s_per_request.
        reason: Why there is none.
    """

    start_s: float | None
    end_s: float | None
    total_s: float
    windows: pd.DataFrame
    reason: str | None = None


def find(rows: pd.DataFrame, concurrency: int) -> Steady:
    """Return the steady state of a trial that was measured in one session.

    Args:
        rows: Its final, answered requests with ``sent_ns`` and ``done_ns``.
        concurrency: A window holds whole rounds of so many, as answers come in bursts.
    """
    empty = pd.DataFrame(columns=["start_s", "end_s", "requests", "s_per_request"])
    if rows["session_id"].nunique() > 1:
        total = sum(_span_s(part) for _, part in rows.groupby("session_id"))
        return Steady(None, None, total, empty, "the trial was interrupted")
    done = np.sort(rows["done_ns"].dropna().to_numpy(dtype=np.int64))
    sent = np.sort(rows["sent_ns"].to_numpy(dtype=np.int64))
    if len(done) == 0:
        return Steady(None, None, 0.0, empty, "nothing was answered")
    origin, total_s = sent[0], (done[-1] - sent[0]) / 1e9
    wave = int(np.searchsorted(sent, done[0]))
    start_ns, end_ns = done[min(wave, len(done)) - 1], sent[-1]
    inside = done[(done > start_ns) & (done <= end_ns)]
    size = _window_size(len(inside), concurrency)
    count = len(inside) // size
    if count < LEAST_WINDOWS:
        why = (
            f"{len(inside)} answers between start-up and drain, fewer than {LEAST_WINDOWS} windows of {size}"
        )
        return Steady(None, None, total_s, empty, why)
    edges = np.concatenate([[start_ns], inside[size - 1 : size * count : size]])
    lengths_s = np.diff(edges) / 1e9
    windows = pd.DataFrame(
        {
            "start_s": (edges[:-1] - origin) / 1e9,
            "end_s": (edges[1:] - origin) / 1e9,
            "requests": size,
            "s_per_request": lengths_s / size,
        }
    )
    return Steady((start_ns - origin) / 1e9, float(edges[-1] - origin) / 1e9, total_s, windows)


def _window_size(answers: int, concurrency: int) -> int:
    """Return how many requests a window holds: whole rounds, for a part of a round says nothing of the rate."""
    least = max(LEAST_REQUESTS, answers // MOST_WINDOWS)
    return -(-least // concurrency) * concurrency


def _span_s(rows: pd.DataFrame) -> float:
    return float(rows["done_ns"].max() - rows["sent_ns"].min()) / 1e9
