"""Statistics: intervals that name their method and level, decisions with an error rate, steady state, extrapolation.

    intervals    `Interval`, and `decide`: above a margin, below it, or undecided
    medians      the median of pairs, by order statistics
    means        means of times, and by how much one exceeds the other
    scores       means of bounded scores by context: intervals and tests that need no normal distribution
    percentiles  p50 and p95, or why not
    position     what being the second request is worth, and a saving without it
    rates        how a rate changes from one size to another
    slopes       a straight line under noise that may add up
    serial       how alike neighbours are, and how many values they count for
    resample     the seeded draws of all of these
    steady       the steady state of a trial
    ratios       by what factor two sides differ: paired, by point, over engine starts
    anytime      a ratio that may be looked at after every block
    extrapolate  the time of N requests, and whether a series has a trend
    growth       whether what was level stays so, and for how much longer that can be said

Which method stands where is decided by measured coverage: `benchmarks/coverage.py`.
"""

from kvlab.stats.intervals import Decision, Interval, decide

__all__ = ["Decision", "Interval", "decide"]
