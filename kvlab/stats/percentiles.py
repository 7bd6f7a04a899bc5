"""Percentiles, refused where they would be another figure by that name."""

import numpy as np

from kvlab.stats.resample import Floats


def percentile(values: Floats, percent: int) -> tuple[float | None, str | None]:
    """Return a percentile (linear interpolation), or ``None`` and why.

    p50 needs 5 values; p95 needs 20, as below that the p95 lies above the second largest value: it would
    be the maximum by another name.
    """
    known = values[~np.isnan(values)]
    least = {50: 5, 95: 20}[percent]
    if len(known) == 0:
        return None, "no values"
    if len(known) < least:
        return None, f"{len(known)} values: p{percent} needs {least}"
    return float(np.percentile(known, percent)), None
