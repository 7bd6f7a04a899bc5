"""A learner's requests: counted, within a budget, and written down.

A reading can be too low, since entries are evicted and others' prompts come between. It can't be too
high. So what is believed of one point is the largest of its readings, and a reading that surprises is
asked again: each probe stores its own prefix, so the next one with the same prefix finds it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count

from kvlab.laws.probe import Answer, Probe, PromptSpec


class StoppedError(Exception):
    """No law can be claimed, and why."""


class RefitError(Exception):
    """A reading was higher than the law predicts, and is written down: fit again with it."""


@dataclass(frozen=True)
class Asked:
    """One request with its answer, and what was expected of it.

    Attributes:
        spec: What was sent.
        prompt_tokens: As the server counted.
        cached_tokens: Served from the cache.
        whole: Whether the very same prompt had been sent before.
        purpose: Of the learner's parts, the one that asked.
        predicted: What the law as it stood then predicted; ``None``: nothing was predicted.
    """

    spec: PromptSpec
    prompt_tokens: int
    cached_tokens: int
    whole: bool
    purpose: str
    predicted: int | None = None


@dataclass
class Asker:
    """Sends probes and keeps their answers.

    Attributes:
        probe: Sends one prompt.
        max_requests: Never more.
        max_prompt_tokens: No prompt is longer, template included.
        overhead: Tokens that the template adds to the content; known after the first answer.
        asked: All answers in order.
        shared: Largest reading by own shared tokens P, of prompts so long that the tail does not bind.
        times: How often each P was asked.
        whole: Largest reading of prompts that were repeated whole, by their length L.
        repeated_low: Readings that were lower than a later one of the same point: evictions.
    """

    probe: Probe
    max_requests: int
    max_prompt_tokens: int
    first_base: int = 0
    overhead: int = 0
    asked: list[Asked] = field(default_factory=list)
    shared: dict[int, int] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)
    whole: dict[int, int] = field(default_factory=dict)
    whole_times: dict[int, int] = field(default_factory=dict)
    repeated_low: int = 0
    _tails: Iterator[int] = field(default_factory=lambda: count(1))

    @property
    def left(self) -> int:
        """Requests that may still be sent."""
        return self.max_requests - len(self.asked)

    @property
    def sure_times(self) -> int:
        """How often a low reading on which a law rests must have been asked.

        So often that all of them being evictions has a chance below 1 in 500, at the rate at which asking
        again read more, and at most four times; twice where that never happened.
        """
        if not self.repeated_low:
            return 2
        again = sum(n - 1 for n in (*self.times.values(), *self.whole_times.values()))
        rate = (self.repeated_low + 0.5) / (max(again, self.repeated_low) + 4)
        return min(4, max(2, math.ceil(math.log(0.002) / math.log(rate))))

    @property
    def patience(self) -> int:
        """How often a reading that is too low is asked before it counts against a law."""
        return 3 if not self.repeated_low or self.left < 10 else 6

    @property
    def specs(self) -> dict[int, PromptSpec]:
        """A prompt that was sent, by its length L; the last of each."""
        return {one.prompt_tokens: one.spec for one in self.asked}

    @property
    def prompt_tokens(self) -> int:
        """All prompts' tokens."""
        return sum(one.prompt_tokens for one in self.asked)

    def send(
        self, spec: PromptSpec, purpose: str, *, whole: bool = False, predicted: int | None = None
    ) -> int:
        """Send a prompt and return its cached tokens.

        Raises:
            StoppedError: The budget is spent, the server does not say what must be known, or the
                prompt's length is not under control.
        """
        if self.left <= 0:
            raise StoppedError(f"{self.max_requests} requests did not suffice")
        answer = self.probe(spec)
        length, cached = _checked(answer)
        own = spec.own_tokens if answer.own_tokens is None else answer.own_tokens
        if not self.asked:
            self.overhead = length - own
            if self.overhead < 0:
                raise StoppedError(f"the server counts {length} tokens in a prompt of {own}")
        elif length - own != self.overhead:
            text = f"a prompt of {own} tokens was counted as {length}, another one as {self.overhead} more"
            raise StoppedError(f"lengths are not under control: {text} than it has")
        if answer.shared_tokens not in (None, spec.shared_tokens):
            raise StoppedError(f"{answer.shared_tokens} tokens are shared, not {spec.shared_tokens} as asked")
        self.asked.append(Asked(spec, length, cached, whole, purpose, predicted))
        return cached

    def fresh(self, own: int, shared: int) -> PromptSpec:
        """Return a prompt of the first base with a tail that no other has."""
        return PromptSpec(own, shared, self.first_base, next(self._tails))

    def along(self, shared: int, own: int, purpose: str, predicted: int | None = None) -> int:
        """Ask one point P, with ``own`` content tokens, and return the largest reading of it so far."""
        cached = self.send(self.fresh(own, shared), purpose, predicted=predicted)
        before = self.shared.get(shared)
        self.repeated_low += before is not None and before < cached
        self.times[shared] = self.times.get(shared, 0) + 1
        self.shared[shared] = max(cached, before or 0)
        return self.shared[shared]

    def again(self, spec: PromptSpec, purpose: str, predicted: int | None = None) -> int:
        """Repeat a prompt whole, and return the largest reading of its length so far."""
        length = spec.own_tokens + self.overhead
        cached = self.send(spec, purpose, whole=True, predicted=predicted)
        before = self.whole.get(length)
        self.repeated_low += before is not None and before < cached
        self.whole_times[length] = self.whole_times.get(length, 0) + 1
        self.whole[length] = max(cached, before or 0)
        return self.whole[length]


def patiently(ask: Callable[[], int], least: int, times: int) -> int:
    """Ask until at least ``least`` tokens are read, three times the same were read, or ``times`` is reached."""
    readings: list[int] = []
    while len(readings) < times:
        readings.append(ask())
        if readings[-1] >= least or (readings[-1] and readings[-3:] == [readings[-1]] * 3):
            break
    return readings[-1]


def _checked(answer: Answer) -> tuple[int, int]:
    if answer.cached_tokens is None:
        raise StoppedError(f"no cached tokens were said: {answer.note or 'the server is silent'}")
    if answer.prompt_tokens is None:
        raise StoppedError("the server does not say how long a prompt is")
    if not 0 <= answer.cached_tokens <= answer.prompt_tokens:
        raise StoppedError(f"{answer.cached_tokens} cached tokens of {answer.prompt_tokens} are impossible")
    return answer.prompt_tokens, answer.cached_tokens
