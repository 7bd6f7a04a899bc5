"""The tail that is always computed: prompts that are repeated whole."""

import random
from functools import partial

import numpy as np

from kvlab.laws.asking import StoppedError, patiently
from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import PromptSpec
from kvlab.laws.steps import TailSteps, most_telling, tail_steps
from kvlab.laws.study import Study

#: Tails longer than this, in tokens, are asked again at once.
RARE = 64


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
            _repair(study, grain, y)
            continue
        if steps.computed.min() > RARE and not _lowest_is_confirmed(study, 2):
            continue  # a long tail is rare, and an eviction looks like one
        chosen = _telling(study, steps, y)
        if chosen is None:
            if _lowest_is_confirmed(study):
                if not study.asker.whole.keys() & _readings(study).keys() and not study.tight:
                    raise StoppedError("no prompt could be repeated below the cap, so the tail is unknown")
                return _simplest(study, steps, y)
            continue
        length, shared = chosen
        if shared is not None:
            least = int(steps.predict_tight([length], [shared + y]).min())
            ask = partial(_ask_tight, study, length, shared)
        else:
            spec = study.asker.specs.get(length) or _seeded(study, length)
            least = int(steps.predict([length]).min())
            ask = partial(study.asker.again, spec, "tail")
        if study.cap is not None:
            least = min(least, study.cap)
        patiently(ask, least, study.asker.patience)


def _ask_tight(study: Study, length: int, shared: int) -> int:
    asker, key = study.asker, (length, shared)
    cached = asker.send(asker.fresh(length - asker.overhead, shared), "tail, tight")
    before = study.tight.get(key)
    asker.repeated_low += before is not None and before < cached
    study.tight_times[key] = study.tight_times.get(key, 0) + 1
    study.tight[key] = max(cached, before or 0)
    return study.tight[key]


def _readings(study: Study) -> dict[int, int]:
    return {n: c for n, c in study.asker.whole.items() if c and (study.cap is None or c < study.cap)}


def _tails(study: Study, grain: int, y: int) -> TailSteps:
    tight = [(*key, c) for key, c in study.tight.items() if c and (study.cap is None or c < study.cap)]
    steps = tail_steps(list(_readings(study).items()), grain, y, study.asker.overhead, tight)
    if study.known_start is None:
        return steps
    keep = y + steps.off * grain == study.known_start
    return TailSteps(grain, steps.tail_grain[keep], steps.computed[keep], steps.off[keep], steps.weight[keep])


def _telling(study: Study, steps: TailSteps, y: int) -> tuple[int, int | None] | None:
    """Return the length to ask next, and what is shared: ``None`` for a repeat. Or ``None``: nothing tells."""
    asker, sent = study.asker, study.asker.specs
    # So long that something is served, whatever the tail: 0 would say nothing.
    shortest = min(study.served().values()) + study.tail_most
    longest = min(asker.max_prompt_tokens, max(sent))
    if study.cap is not None:  # above it every tail reads the same
        shortest, longest = min(study.served().values()), min(longest, study.cap + steps.grain)
    known = {n for n in sent if shortest <= n <= longest} - asker.whole.keys()
    lengths = sorted(known | set(_tail_edges(steps, shortest, longest, study.random)))
    tight = [n for n in lengths if n - asker.overhead - 1 <= study.base_tokens - 1]
    if not lengths:
        return None
    shared = [n - asker.overhead - 1 for n in tight]
    predicted = np.hstack([steps.predict(lengths), steps.predict_tight(tight, [p + y for p in shared])])
    # A prompt that was never sent takes two requests.
    requests = np.asarray([1.0 if n in known else 2.0 for n in lengths] + [1.0] * len(tight))
    cost = 0.1 * np.asarray(lengths + tight) / lengths[-1]
    best = most_telling(predicted, steps.weight, cost, requests)
    if best is None:
        return None
    return (
        (lengths[best], None)
        if best < len(lengths)
        else (tight[best - len(lengths)], shared[best - len(lengths)])
    )


def _seeded(study: Study, length: int) -> PromptSpec:
    """Send a prompt of this length for the first time, as cheaply as the base allows."""
    own = length - study.asker.overhead
    shared = max(0, min(own - study.tail_most, study.base_tokens - 1))
    spec = study.asker.fresh(own, shared)
    study.asker.send(spec, "tail, first")
    return spec


def _lowest_is_confirmed(study: Study, sure_times: int | None = None) -> bool:
    """Ask the reading again that makes the tail longest: it may be an eviction."""
    sure = study.asker.sure_times if sure_times is None else sure_times
    readings = _readings(study)
    longest_tails: list[tuple[int, int, int, int | None]] = [
        (n - c, study.asker.whole_times[n], n, None) for n, c in readings.items()
    ]
    longest_tails += [(n - c, study.tight_times[n, p], n, p) for (n, p), c in study.tight.items() if c]
    if not longest_tails:
        return True
    _, times, length, shared = max(longest_tails, key=lambda one: one[0])
    if times >= sure:
        return True
    if shared is not None:
        return _ask_tight(study, length, shared) == study.tight[length, shared]
    return study.asker.again(study.asker.specs[length], "tail, again") == readings[length]


def _repair(study: Study, grain: int, y: int) -> None:
    """No tail explains all readings: ask the lowest one again, it may be an eviction; else see a plateau."""
    asker, readings = study.asker, _readings(study)
    unsure = [n for n in readings if asker.whole_times[n] < asker.patience]
    unsure_tight = [key for key in study.tight if study.tight_times[key] < asker.patience]
    if unsure:
        lowest = max(unsure, key=lambda n: n - readings[n])
        asker.again(asker.specs[lowest], "tail, again")
        return
    if unsure_tight:
        _ask_tight(study, *max(unsure_tight, key=lambda key: key[0] - study.tight[key]))
        return
    top = max(readings.values())
    if study.cap is None and top >= max(asker.shared.values()):
        study.cap = top
        if len(_tails(study, grain, y)):
            return
    raise StoppedError("no tail explains the prompts that were repeated whole")


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
