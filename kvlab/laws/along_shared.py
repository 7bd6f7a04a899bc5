"""The grain and the offset: prompts that grow until something is reused, then prompts that share a chosen part."""

import random
from functools import partial

import numpy as np

from kvlab.laws.asking import StoppedError, patiently
from kvlab.laws.probe import PromptSpec
from kvlab.laws.steps import SharedSteps, most_telling, shared_steps
from kvlab.laws.study import ASKED_AT_MOST, GROWTH, Study


def find_reuse(study: Study) -> None:
    """Send prompts that extend each other until a part is reused, then repeat the last one.

    Raises:
        StoppedError: Nothing is reused, or only whole prompts are.
    """
    asker, own, previous = study.asker, study.start, 0
    while True:
        spec = PromptSpec(own, own, asker.first_base)
        cached = asker.send(spec, "length")
        if previous:
            asker.shared[previous], asker.times[previous] = cached, 1
        study.base_tokens = own
        if own >= study.longest_own or (previous and cached and own >= 3 * cached):
            break
        previous, own = own, min(own * GROWTH, study.longest_own)
    whole = 0
    for _ in range(ASKED_AT_MOST):
        whole = whole or asker.again(spec, "length")
    length = spec.own_tokens + asker.overhead
    if not whole:
        raise StoppedError(f"a prompt of {length:,} tokens was sent again, and 0 of them were cached")
    if not study.served():
        _share_the_most(study, whole)


def _share_the_most(study: Study, whole: int) -> None:
    """Only the repeat was served: share as much as the longest prompt allows."""
    shared = min(study.base_tokens - 1, whole)
    for _ in range(ASKED_AT_MOST):
        if study.asker.along(shared, study.own(shared), "length"):
            return
    raise StoppedError(f"a whole prompt was reused, but nothing of the {shared:,} tokens that another shared")


def along_shared(study: Study) -> tuple[int, int]:
    """Ask the P that tells most, until one grain and one offset are left, and return both in tokens.

    Raises:
        StoppedError: No grain explains the readings, several do, or the budget is spent.
    """
    turn = 0
    while True:
        steps = study.steps()
        if not len(steps):
            _repair(study)
            continue
        turn += 1
        point = _telling_point(study, steps)
        if point is None:
            if len(steps) > 1 and _room_was_hidden(study):
                continue
            if _lowest_is_confirmed(study):
                break
            continue
        least = int(steps.predict([point]).min())
        own = _landing(study, point, steps, turn)
        patiently(partial(study.asker.along, point, own, "grain"), least, study.asker.patience)
    if len(steps) > 1:
        grains = ", ".join(f"{g:,}" for g in steps.grains[:8])
        raise StoppedError(f"grains still possible: {grains} tokens")
    return int(steps.grain[0]), int(steps.y[0])


def _telling_point(study: Study, steps: SharedSteps) -> int | None:
    asker = study.asker
    top = study.base_tokens - 1
    if study.cap is not None:
        top = min([top, *(p - 1 for p, c in asker.shared.items() if c >= study.cap)])
    top = min(top, study.longest_own - study.tail_most)
    lowest = min(study.served())
    nothing = max((p for p, c in asker.shared.items() if not c and p < lowest), default=0)
    # Below the lowest reading a minimum may answer 0, which says nothing; so only where all else is silent.
    for low in (lowest, nothing + 1):
        points = _edges(steps, low, max(low, top), study.random)
        if points:
            cost = 0.2 * np.asarray(points) / max(points)
            best = most_telling(steps.predict(points), steps.weight, cost)
            if best is not None:
                return points[best]
    return None


def _landing(study: Study, shared: int, steps: SharedSteps, turn: int) -> int:
    """Return a content length worth repeating whole later: the prompt has whole grains, or one token more."""
    own = study.own(shared)
    grain = int(steps.grain[int(np.argmax(steps.weight))])
    up = -(own + study.asker.overhead) % grain + turn % 2
    return own + up if own + up <= study.longest_own else own


def _room_was_hidden(study: Study) -> bool:
    """Repeat the longest prompt: had it been evicted, its tail looked long, and points out of reach."""
    asker = study.asker
    length = study.base_tokens + asker.overhead
    if asker.whole_times.get(length, ASKED_AT_MOST) >= ASKED_AT_MOST:
        return False
    before = study.tail_most
    asker.again(PromptSpec(study.base_tokens, study.base_tokens, asker.first_base), "length, again")
    return study.tail_most < before


def _lowest_is_confirmed(study: Study) -> bool:
    """Ask the reading again that bounds the offset from above: were it an eviction, the law would be wrong."""
    points = study.served()
    lowest = min(points, key=lambda p: (points[p] - p, p))
    if study.asker.times.get(lowest, 0) >= study.asker.sure_times:
        return True
    return study.asker.along(lowest, study.own(lowest), "grain, again") == points[lowest]


def _repair(study: Study) -> None:
    """No grain explains all readings: ask the lowest one again, it may be an eviction; else see a plateau."""
    asker, points = study.asker, study.served()
    unsure = [p for p in points if asker.times.get(p, 0) < asker.patience]
    top = max(points.values())
    at_top = sorted(p for p, c in points.items() if c == top)
    if study.cap is None and _looks_capped(study, points):
        study.cap = top
    elif study.cap is None and len(at_top) == 1 and asker.times.get(at_top[0], 0) >= 2:
        # The only one of its height, and lower than it should be: is there a plateau?
        below = max((p for p in points if p < at_top[0]), default=0)
        asker.along(at_top[0] - max(1, (at_top[0] - below) // 4), study.own(at_top[0]), "plateau")
    elif unsure:
        lowest = min(unsure, key=lambda p: points[p] - p)
        asker.along(lowest, study.own(lowest), "grain, again")
    else:
        raise StoppedError("no grain explains all readings")


def _looks_capped(study: Study, points: dict[int, int]) -> bool:
    """Whether the largest reading came at least twice, asked twice each, and the others make steps."""
    top = max(points.values())
    at_top = [p for p, c in points.items() if c == top]
    below = [(p, c) for p, c in points.items() if c < top]
    if len(at_top) < 2 or any(study.asker.times.get(p, 0) < 2 for p in at_top):
        return False
    return len(shared_steps(below, study.asker.overhead)) > 0


def _edges(steps: SharedSteps, low: int, high: int, draw: random.Random) -> list[int]:
    """Return points at, and just below, steps of the likeliest hypotheses."""
    grains, which = np.unique(steps.grain, return_inverse=True)
    weights = np.bincount(which, weights=steps.weight)
    found: set[int] = set()
    for position in np.argsort(weights)[::-1][:6]:
        grain = int(grains[position])
        ys = steps.y[steps.grain == grain]
        for y in {int(np.quantile(ys, q, method="nearest")) for q in (0, 0.25, 0.5, 0.75, 1)}:
            least, most = -(-(low + y) // grain), (high + y) // grain
            if most < least:
                continue
            for unit in {least, most, draw.randint(least, most), draw.randint(least, most)}:
                found.update({unit * grain - y, unit * grain - y - 1})
    return sorted(p for p in found if low <= p <= high)
