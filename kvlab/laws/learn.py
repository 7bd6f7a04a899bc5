"""Learn the law of reuse from a few prompts, and claim it only when it predicts others exactly.

In order: (1) prompts that grow fourfold and extend each other, until something is reused; (2) prompts
that share a chosen part, until one grain and one offset explain all readings (`kvlab.laws.steps`);
(3) prompts repeated whole, for the tail that is always computed; (4) the smallest reading there is,
for a minimum; (5) the longest prompt that matters, for a cap; (6) held-out prompts, chosen at the
steps where laws that are nearly right go wrong. The law that comes out predicts each of these before
it is sent. One wrong prediction, and there is no law, but a description.

A reading that is too low is asked again before it counts against a law (see `kvlab.laws.asking`); how
many were is part of the result.
"""

import random
from dataclasses import dataclass

from kvlab.laws.along_shared import along_shared, find_reuse
from kvlab.laws.along_tail import along_tail
from kvlab.laws.asking import Asked, Asker, RefitError, StoppedError
from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import Probe
from kvlab.laws.study import GROWTH, Study
from kvlab.laws.verify import find_cap, find_minimum, held_out


@dataclass(frozen=True)
class LearnedLaw:
    """What was found out.

    Attributes:
        law: The law, or ``None`` where none predicted all held-out prompts.
        reason: Without a law: what was seen instead.
        predicted: How many held-out prompts were predicted exactly.
        held_out: Of how many.
        held_to_tokens: The longest prompt among all that were asked: nothing is claimed beyond.
        wrong_at_most: Share of such prompts that the law may get wrong, at 95 % confidence
            (``1 - 0.05 ** (1 / n)``, exact binomial); ``None`` without a law.
        possible_grains: Grains that the readings leave possible, in tokens.
        alternatives: Other laws that say the same of every prompt that could be asked.
        evicted: Readings that were lower than a later one of the same point.
        requests: How many were sent.
        prompt_tokens: Of all of them.
        overhead_tokens: What the template adds to a prompt.
        asked: Every request.
    """

    law: CacheLaw | None
    reason: str | None
    predicted: int
    held_out: int
    held_to_tokens: int
    wrong_at_most: float | None
    possible_grains: tuple[int, ...]
    alternatives: tuple[CacheLaw, ...]
    evicted: int
    requests: int
    prompt_tokens: int
    overhead_tokens: int
    asked: tuple[Asked, ...]


def price(max_prompt_tokens: int, max_requests: int = 40, start_tokens: int = 64) -> tuple[int, int]:
    """Return the most requests and prompt tokens that `learn_law` can take; it takes less as a rule.

    Prompts grow fourfold until something is reused, and all others are at most as long as the longest.
    """
    lengths, own = [], start_tokens
    while own < max_prompt_tokens:
        lengths.append(own)
        own *= GROWTH
    lengths.append(max_prompt_tokens)
    lengths = lengths[:max_requests]
    return max_requests, sum(lengths) + (max_requests - len(lengths)) * max_prompt_tokens


def learn_law(
    probe: Probe,
    *,
    max_prompt_tokens: int,
    max_requests: int = 40,
    start_tokens: int = 64,
    verify_to_tokens: int | None = None,
    shared_start_tokens: int | None = None,
    base: int = 0,
    seed: int = 0,
) -> LearnedLaw:
    """Learn how many tokens a cache serves.

    Args:
        probe: Sends one prompt.
        max_prompt_tokens: The longest prompt that may be sent, template included.
        max_requests: Never more are sent.
        start_tokens: Content of the first, shortest prompt.
        verify_to_tokens: The law must hold up to here; default: four times the longest prompt that was
            needed to find it, but at most `max_prompt_tokens`.
        shared_start_tokens: How many leading tokens all prompts share, where it is known (tokens can be
            listed); it tells units off apart from a longer start.
        base: Number of the text that prompts share; bases from here up to ``base + 2`` are used.
        seed: Of the choice of held-out prompts.
    """
    asker = Asker(probe, max_requests, max_prompt_tokens, base)
    draw = random.Random(seed)  # noqa: S311 - a choice of probes
    study = Study(asker, start_tokens, verify_to_tokens, shared_start_tokens, draw)
    law, reason = None, None
    try:
        law = _learn(study)
    except StoppedError as stopped:
        reason = f"{stopped}; {study.described()}"
    n = study.held_out
    return LearnedLaw(
        law=law,
        reason=reason,
        predicted=study.predicted,
        held_out=n,
        held_to_tokens=max((one.prompt_tokens for one in asker.asked), default=0),
        wrong_at_most=None if law is None or not n else 1 - 0.05 ** (1 / n),
        possible_grains=tuple(study.steps().grains),
        alternatives=tuple(one for one in study.alternatives if law is None or one != law),
        evicted=asker.repeated_low,
        requests=len(asker.asked),
        prompt_tokens=asker.prompt_tokens,
        overhead_tokens=asker.overhead,
        asked=tuple(asker.asked),
    )


def _learn(study: Study) -> CacheLaw:
    """Return a law that predicted all held-out prompts.

    Raises:
        StoppedError: There is none, or the budget is spent.
    """
    find_reuse(study)
    while True:
        try:
            grain, y = along_shared(study)
            law = find_cap(study, find_minimum(study, along_tail(study, grain, y)))
            held_out(study, law)
            return law
        except RefitError as more:
            # Fit again with that reading, and hold out new prompts.
            if study.asker.left < 8:
                raise StoppedError(str(more)) from None
            study.predicted = study.held_out = 0
