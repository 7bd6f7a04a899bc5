"""The tail that is always computed: prompts that are repeated whole."""

import random

import numpy as np

from kvlab.laws.asking import StoppedError
from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import PromptSpec
from kvlab.laws.steps import TailSteps, most_telling, tail_steps
from kvlab.laws.study import ASKED_AT_MOST, Study


def along_tail(study: Study, grain: int, y: int) -> CacheLaw:
    """Repeat prompts whole until all tails that are left say the same, and return the law with the simplest.

    Args:
        study: What was learned so far.
        grain: Tokens.
        y: Shared start less the units off, in tokens.

    Raises:
        StoppedError: No tail explains the readings, or the budget is spent.
    """
    while True:
        steps = _tails(study, grain, y)
        if not len(steps):
            _repair(study)
            continue
        length = _telling_length(study, steps)
        if length is None:
            if _lowest_is_confirmed(study):
                return _simplest(study, steps, y)
            continue
        spec = study.asker.specs.get(length) or _seeded(study, length)
        least = int(steps.predict([length]).min())
        if study.cap is not None:
            least = min(least, study.cap)
        for _ in range(ASKED_AT_MOST):
            if study.asker.again(spec, "tail") >= least:
                break


def _readings(study: Study) -> dict[int, int]:
    return {n: c for n, c in study.asker.whole.items() if c and (study.cap is None or c < study.cap)}


def _tails(study: Study, grain: int, y: int) -> TailSteps:
    steps = tail_steps(list(_readings(study).items()), grain, y, study.asker.overhead)
    if study.known_start is None:
        return steps
    keep = y + steps.off * grain == study.known_start
    return TailSteps(grain, steps.tail_grain[keep], steps.computed[keep], steps.off[keep], steps.weight[keep])


def _telling_length(study: Study, steps: TailSteps) -> int | None:
    asker, sent = study.asker, study.asker.specs
    shortest = min(study.served()) + asker.overhead + study.tail_most
    longest = min(asker.max_prompt_tokens, max(sent))
    if study.cap is not None:
        longest = min(longest, study.cap + steps.grain)
    known = {n for n in sent if shortest <= n <= longest} - asker.whole.keys()
    lengths = sorted(known | set(_tail_edges(steps, shortest, longest, study.random)))
    if not lengths:
        return None
    # A prompt that was never sent takes two requests.
    cost = np.asarray([0.0 if n in known else 0.5 for n in lengths])
    best = most_telling(steps.predict(lengths), steps.weight, cost + 0.1 * np.asarray(lengths) / lengths[-1])
    return None if best is None else lengths[best]


def _seeded(study: Study, length: int) -> PromptSpec:
    """Send a prompt of this length for the first time, as cheaply as the base allows."""
    own = length - study.asker.overhead
    shared = max(0, min(own - study.tail_most, study.base_tokens - 1))
    spec = study.asker.fresh(own, shared)
    study.asker.send(spec, "tail, first")
    return spec


def _lowest_is_confirmed(study: Study) -> bool:
    """Ask the reading again that makes the tail longest: it may be an eviction."""
    readings = _readings(study)
    if not readings:
        return True
    lowest = max(readings, key=lambda n: n - readings[n])
    if study.asker.whole_times[lowest] >= 2:
        return True
    return study.asker.again(study.asker.specs[lowest], "tail, again") == readings[lowest]


def _repair(study: Study) -> None:
    """No tail explains all readings: ask the lowest one again."""
    asker, readings = study.asker, _readings(study)
    unsure = [n for n in readings if asker.whole_times[n] < ASKED_AT_MOST]
    if not unsure:
        raise StoppedError("no tail explains the prompts that were repeated whole")
    lowest = max(unsure, key=lambda n: n - readings[n])
    asker.again(asker.specs[lowest], "tail, again")


def _simplest(study: Study, steps: TailSteps, y: int) -> CacheLaw:
    """Return the law with an ordinary tail and the fewest units off; the others say the same of all that can be asked."""
    found = []
    for tail, computed, off in zip(steps.tail_grain, steps.computed, steps.off, strict=True):
        unit = None if int(tail) == steps.grain else int(tail)
        start = y + int(off) * steps.grain
        law = CacheLaw(steps.grain, 0, int(computed), int(off), start, study.cap, unit)
        # One token is what must be computed, none what some servers report; other tails need units off to stay away.
        found.append(((unit is not None, int(computed) > 1, int(off), int(computed)), law))
    found.sort(key=lambda pair: pair[0])
    study.alternatives = [law for _, law in found[:6]]
    return found[0][1]


def _tail_edges(steps: TailSteps, low: int, high: int, draw: random.Random) -> list[int]:
    """Return lengths at, and just below, steps of the likeliest tails, and of some of each tail grain."""
    chosen = {int(i) for i in np.argsort(steps.weight)[::-1][:4]}
    for tail in np.unique(steps.tail_grain):
        where = np.flatnonzero(steps.tail_grain == tail)
        chosen |= {int(where[int(q * (len(where) - 1))]) for q in (0.25, 0.5, 0.75, 1.0)}
    found: set[int] = set()
    for i in sorted(chosen):
        end = int(steps.computed[i])
        # A small tail grain shows only where the prompt has just about whole grains.
        least, most = -(-(low - end) // steps.grain), (high - end) // steps.grain
        if most < least:
            continue
        for k in {least, draw.randint(least, most)}:
            found.update({k * steps.grain + end, k * steps.grain + end - 1, k * steps.grain})
    return sorted(n for n in found if low <= n <= high)
