"""Where accuracy breaks when the KV budget falls, and how sure one can be of it.

Pure functions on arrays and frames: no database, no clock, every draw seeded.

    scores      answers → a matrix of examples × budgets, and what failures count as
    drop        paired drops, tests on clusters of examples that share a context
    detect      the calibrated rule: a fixed sequence of tests, Holm over length bins
    point_rule  the uncalibrated one: the first step of the means that is large enough
    location    between which budgets: tests from both ends
    power       the smallest drop that would be seen
    bins        what each budget scored in each length bin; which bin is the worst
    flips       right to wrong, wrong to right
    failures    wrong answers or none; the call under every treatment of failures
    controls    the same budget twice, a random policy, no context
    sanity      assertions on behaviour, rows to read
    efficiency  tokens, time, memory, cost
    refine      which budget to add next
"""

from kvlab.compression.transition.bins import curve
from kvlab.compression.transition.refine import next_budget
from kvlab.compression.transition.scores import Scores, collect

__all__ = ["Scores", "collect", "curve", "next_budget"]
