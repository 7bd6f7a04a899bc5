"""Who shares a prefix with whom: one tenant stores a prompt, another asks for it.

A tenant is whatever is to be told apart: a salt, a key, a user, a session. In each block there are three
prompts, in random order: *cross* (A stores, B asks), *same* (B stores, B asks: the positive control) and
*fresh* (B asks for what nobody stored: the negative control). Without a positive control that shows reuse,
a cold answer to B means nothing; without a cold negative control, a hit means nothing.

By evidence, cached tokens decide each block, and all must agree. By times alone: under isolation a cross
answer is as slow as a fresh one, and within a block the order is random, so the sign of their difference
is a fair coin (Wilcoxon's signed-rank test, exact). `shared` needs cross faster than fresh, `isolated`
needs cross slower than same, each at half the stated false-alarm rate; neither: `unknown`. Whether a run
could have seen anything is shown by the positive control, tested in the same way, and by `power`.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from scipy.stats import wilcoxon

from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import Answer, Probe, PromptSpec

ARMS = ("cross", "same", "fresh")
#: Requests of one block: cross and same are stored first.
REQUESTS_A_BLOCK = 5


@dataclass(frozen=True)
class Block:
    """One block's three answers."""

    cross: Answer
    same: Answer
    fresh: Answer


@dataclass(frozen=True)
class Sharing:
    """What was found out.

    Attributes:
        verdict: ``shared``, ``isolated`` or ``unknown``.
        by: ``cached tokens`` or ``times``.
        reason: One sentence with the figures.
        positive_control: Whether reuse by the same tenant was seen; ``None``: not known.
        negative_control: Whether what nobody stored was cold; ``None``: not known (times alone).
        blocks: n.
        false_alarms_at_most: Of the verdict, under the test's assumptions; ``None`` by evidence.
        p_shared: Of the test that cross is faster than fresh; ``None`` by evidence.
        p_isolated: Of the test that cross is slower than same.
        p_control: Of the test that same is faster than fresh.
        cross_share: By times: how far cross lies from fresh (0) to same (1), by medians.
        requests: How many were sent.
    """

    verdict: str
    by: str
    reason: str
    positive_control: bool | None
    negative_control: bool | None
    blocks: int
    false_alarms_at_most: float | None
    p_shared: float | None
    p_isolated: float | None
    p_control: float | None
    cross_share: float | None
    requests: int


def learn_sharing(
    probe: Probe,
    law: CacheLaw | None,
    *,
    tenants: tuple[str | None, str | None],
    prompt_tokens: int,
    overhead_tokens: int = 0,
    blocks: int = 12,
    false_alarms: float = 0.01,
    first_text: int = 0,
    seed: int = 0,
) -> Sharing:
    """Find whether the second tenant is served what the first one stored.

    Args:
        probe: Sends one prompt as its tenant.
        law: Of reuse; ``None``: unknown, then more cached tokens than a fresh prompt has count as reuse.
        tenants: The one that stores, and the one that asks.
        prompt_tokens: Length of each prompt: by times alone, as long as the server allows.
        overhead_tokens: What the template adds.
        blocks: Of 5 requests each; by evidence, three are enough, and no more are sent.
        false_alarms: The most that a verdict by times may be wrong, in all.
        first_text: Texts from this number on are used.
        seed: Of the order within blocks.
    """
    draw = random.Random(seed)  # noqa: S311 - an order of requests
    own, text = prompt_tokens - overhead_tokens, first_text
    found: list[Block] = []
    while len(found) < blocks:
        found.append(_block(probe, tenants, own, text, draw))
        text += len(ARMS)
        answers = [getattr(one, arm) for one in found for arm in ARMS]
        if len(found) == 3 and all(answer.cached_tokens is not None for answer in answers):
            return by_evidence(found, law, prompt_tokens)
    return by_times(found, false_alarms)


def _block(
    probe: Probe, tenants: tuple[str | None, str | None], own: int, text: int, draw: random.Random
) -> Block:
    stores, asks = tenants
    answers: dict[str, Answer] = {}
    for arm in draw.sample(ARMS, len(ARMS)):
        number = text + ARMS.index(arm)
        if arm != "fresh":
            probe(PromptSpec(own, own, number, tenant=stores if arm == "cross" else asks))
        answers[arm] = probe(PromptSpec(own, own, number, tenant=asks))
    return Block(**answers)


def by_evidence(blocks: Sequence[Block], law: CacheLaw | None, prompt_tokens: int) -> Sharing:
    """Decide by cached tokens: every block must say the same."""
    full = law.full_hit(prompt_tokens) if law else None
    start = law.predict(prompt_tokens, 0) if law else min(one.fresh.cached_tokens or 0 for one in blocks)

    def reused(answer: Answer) -> bool:
        read = answer.cached_tokens or 0
        return read >= full if full is not None else read > start

    same = [reused(one.same) for one in blocks]
    fresh = [(one.fresh.cached_tokens or 0) <= start for one in blocks]
    cross = [reused(one.cross) for one in blocks]
    cold = [(one.cross.cached_tokens or 0) <= start for one in blocks]
    n = len(blocks)
    if full is not None and full <= start:
        verdict, reason = "unknown", f"a prompt of {prompt_tokens} tokens is never served: use longer ones"
    elif not all(same):
        verdict, reason = (
            "unknown",
            f"the same tenant was served in {sum(same)} of {n} blocks: no positive control",
        )
    elif not all(fresh):
        verdict, reason = (
            "unknown",
            f"what nobody stored was cold in {sum(fresh)} of {n} blocks: no negative control",
        )
    elif all(cross):
        verdict, reason = "shared", f"the other tenant's prompt was served in {n} of {n} blocks"
    elif all(cold):
        verdict, reason = (
            "isolated",
            f"the other tenant's prompt was cold in {n} of {n} blocks, the own one served",
        )
    else:
        verdict, reason = "unknown", f"the other tenant's prompt was served in {sum(cross)} of {n} blocks"
    return Sharing(
        verdict,
        "cached tokens",
        reason,
        all(same),
        all(fresh),
        n,
        None,
        None,
        None,
        None,
        None,
        n * REQUESTS_A_BLOCK,
    )


def by_times(blocks: Sequence[Block], false_alarms: float = 0.01) -> Sharing:
    """Decide by times to first token alone."""
    times = {arm: [getattr(one, arm).ttft_ms for one in blocks] for arm in ARMS}
    whole = [
        i for i in range(len(blocks)) if all(times[arm][i] is not None and times[arm][i] > 0 for arm in ARMS)
    ]
    logs = {arm: np.log([times[arm][i] for i in whole]) for arm in ARMS}
    n, requests = len(whole), len(blocks) * REQUESTS_A_BLOCK
    if n < 8:
        reason = f"{n} whole blocks: a test at {false_alarms / 2:.1%} needs 8"
        return Sharing("unknown", "times", reason, None, None, n, None, None, None, None, None, requests)
    p_shared = _faster(logs["cross"], logs["fresh"])
    p_isolated = _faster(logs["same"], logs["cross"])
    p_control = _faster(logs["same"], logs["fresh"])
    gap = median(logs["fresh"]) - median(logs["same"])
    share = (median(logs["fresh"]) - median(logs["cross"])) / gap if gap > 0 else None
    level = false_alarms / 2
    control = p_control <= level
    medians = ", ".join(f"{arm} {math.exp(median(logs[arm])):.0f} ms" for arm in ARMS)
    if not control:
        verdict, why = (
            "unknown",
            f"the own prompt is not faster than a fresh one (p = {p_control:.3g}): nothing can be seen",
        )
    elif p_shared <= level and p_isolated <= level:
        verdict, why = (
            "unknown",
            "the other tenant's prompt is faster than a fresh one and slower than the own",
        )
    elif p_shared <= level:
        verdict, why = "shared", f"the other tenant's prompt is faster than a fresh one (p = {p_shared:.3g})"
    elif p_isolated <= level:
        verdict, why = (
            "isolated",
            f"the other tenant's prompt is slower than the own one (p = {p_isolated:.3g})",
        )
    else:
        verdict, why = (
            "unknown",
            "the other tenant's prompt differs neither from a fresh one nor from the own",
        )
    reason = f"{why}; medians: {medians}; signed-rank test of n = {n} blocks"
    return Sharing(
        verdict,
        "times",
        reason,
        control,
        None,
        n,
        false_alarms,
        p_shared,
        p_isolated,
        p_control,
        share,
        requests,
    )


def power(
    effect: float,
    spread: float,
    blocks: int = 12,
    false_alarms: float = 0.01,
    simulations: int = 400,
    seed: int = 0,
) -> float:
    """Return how often `by_times` says ``shared`` where it is, by simulation.

    Args:
        effect: How many times slower a fresh prompt is than a served one.
        spread: Standard deviation of the logarithm of a time, within a block.
        blocks: n.
        false_alarms: As in `by_times`.
        simulations: How many.
        seed: Of the simulation.
    """
    rng = np.random.default_rng(seed)
    found = 0
    for _ in range(simulations):
        cold = np.exp(rng.normal(math.log(effect), spread, blocks))
        served = np.exp(rng.normal(0.0, spread, (2, blocks)))
        trial = [
            Block(Answer(None, None, ttft_ms=a), Answer(None, None, ttft_ms=b), Answer(None, None, ttft_ms=c))
            for a, b, c in zip(*served, cold, strict=True)
        ]
        found += by_times(trial, false_alarms).verdict == "shared"
    return found / simulations


def _faster(quick: "np.typing.NDArray[np.float64]", slow: "np.typing.NDArray[np.float64]") -> float:
    """Return p of the exact signed-rank test that ``quick`` is smaller, by pairs."""
    if not np.any(quick != slow):
        return 1.0
    return float(wilcoxon(quick, slow, alternative="less", method="auto").pvalue)
