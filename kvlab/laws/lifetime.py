"""How long an entry stays when nobody asks for it.

The physics. A cache may drop an entry after a time of idleness (hosted APIs document 5 to 60 minutes), at
a fixed age, or only when the room is needed. To ask is to use: an entry that was asked for starts anew, so
each wait needs a prompt of its own. Waits need not follow each other: all prompts of a round are stored at
its start, and each is asked for at its own time, so a round takes as long as its longest wait.

First waits that double, then waits that divide the bracket. A prompt that is there after t was kept for t,
for certain. One that is gone may have been pushed out by others, so a wait counts as too long only where
all of its prompts are gone, and none that waited longer is there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import Probe, PromptSpec


@dataclass(frozen=True)
class Waited:
    """One prompt: how long it was left alone, and whether it was served whole then."""

    wait_s: float
    kept: bool


@dataclass(frozen=True)
class Survival:
    """A point of the survival curve: of ``n`` prompts that waited so long, ``kept`` were there."""

    wait_s: float
    kept: int
    n: int


@dataclass(frozen=True)
class LearnedLifetime:
    """What was found out.

    Attributes:
        ttl_s_low: Entries are kept at least so long.
        ttl_s_high: And gone by then; ``None``: nothing was lost within the limit (right-censored there).
        survived_s: The longest wait after which a prompt was there.
        renewed_by_use: Whether use in between starts the time anew; ``None``: not known.
        curve: By wait, ascending.
        evicted: Prompts that were gone though a longer wait was survived: pushed out, not expired.
        reason: What cannot be said, and why.
        requests: How many were sent.
        prompt_tokens: Of all of them, as planned.
    """

    ttl_s_low: float
    ttl_s_high: float | None
    survived_s: float
    renewed_by_use: bool | None
    curve: tuple[Survival, ...]
    evicted: int
    reason: str | None
    requests: int
    prompt_tokens: int


@dataclass
class _Watch:
    probe: Probe
    law: CacheLaw
    prompt_tokens: int
    overhead_tokens: int
    now: Callable[[], float]
    sleep: Callable[[float], None]
    text: int
    waited: list[Waited] = field(default_factory=list)
    requests: int = 0

    def new(self) -> PromptSpec:
        """Return a prompt that was never sent."""
        own = self.prompt_tokens - self.overhead_tokens
        self.text += 1
        return PromptSpec(own, own, self.text - 1)

    def ask(self, spec: PromptSpec) -> bool:
        """Send a prompt; whether it was served whole.

        Raises:
            ValueError: The server does not say how many tokens were cached.
        """
        self.requests += 1
        cached = self.probe(spec).cached_tokens
        if cached is None:
            raise ValueError("the server does not say how many tokens were cached")
        return cached >= self.law.full_hit(self.prompt_tokens)

    def round(self, waits: Sequence[float], each: int) -> None:
        """Store ``each`` prompts for every wait, and ask for them when their time has come."""
        stored = []
        for wait in sorted(waits, reverse=True):
            for _ in range(each):
                spec = self.new()
                self.ask(spec)
                stored.append((self.now() + wait, self.now(), spec))
        for due, since, spec in sorted(stored, key=lambda one: one[0]):
            self.sleep(max(0.0, due - self.now()))
            asked = self.now()
            self.waited.append(Waited(asked - since, self.ask(spec)))

    def bracket(self) -> tuple[float, float | None]:
        """Return the longest wait that was survived, and the shortest after it that none survived."""
        low = max((one.wait_s for one in self.waited if one.kept), default=0.0)
        lost = [one.wait_s for one in self.waited if not one.kept and one.wait_s > low]
        return low, min(lost, default=None)


def price(
    limit_s: float, first_s: float = 1.0, each: int = 2, splits: int = 4, max_rounds: int = 6
) -> tuple[int, float]:
    """Return the most requests and seconds that `learn_lifetime` takes; the arguments are its own."""
    requests = 6 + 2 * each * (len(_waits(first_s, limit_s)) + splits * max_rounds) + 6
    return requests, (max_rounds + 1) * limit_s + 4 * limit_s


def _waits(first_s: float, limit_s: float) -> list[float]:
    """Return waits that double, and the limit."""
    waits = [first_s]
    while waits[-1] * 2 < limit_s:
        waits.append(waits[-1] * 2)
    return [*waits, limit_s] if waits[-1] < limit_s else [limit_s]


def learn_lifetime(
    probe: Probe,
    law: CacheLaw,
    *,
    prompt_tokens: int,
    limit_s: float,
    now: Callable[[], float],
    sleep: Callable[[float], None],
    first_s: float = 1.0,
    overhead_tokens: int = 0,
    first_text: int = 0,
    each: int = 2,
    relative_width: float = 0.1,
    splits: int = 4,
    max_rounds: int = 6,
) -> LearnedLifetime:
    """Find how long entries stay idle.

    The whole takes about ``limit_s`` where nothing is lost, and at most ``max_rounds`` lifetimes more.

    Args:
        probe: Sends one prompt.
        law: Says what a full hit serves.
        prompt_tokens: Length of each prompt; its full hit must not be 0.
        limit_s: The longest wait.
        now: A monotonic clock in seconds.
        sleep: Waits so many seconds.
        first_s: The shortest wait; the others double.
        overhead_tokens: What the template adds.
        first_text: Texts from this number on are used.
        each: Prompts for every wait, so that one that was pushed out is not taken for expired.
        relative_width: The interval is narrowed until it is at most so wide, as a share of its low end.
        splits: Waits in each narrowing round.
        max_rounds: Narrowing rounds at most.

    Raises:
        ValueError: A full hit of such a prompt serves nothing, or the server says nothing.
    """
    if not law.full_hit(prompt_tokens):
        raise ValueError(
            f"prompt_tokens: a prompt of {prompt_tokens} tokens is never served; use longer ones"
        )
    watch = _Watch(probe, law, prompt_tokens, overhead_tokens, now, sleep, first_text)
    if not _control(watch):
        return _result(
            watch, None, "a prompt that was sent twice at once was not served: no lifetime can be seen"
        )
    watch.round(_waits(first_s, limit_s), each)
    low, high = watch.bracket()
    for _ in range(max_rounds):
        if high is None or high - low <= relative_width * low:
            break
        step = (high - low) / (splits + 1)
        watch.round([low + step * (i + 1) for i in range(splits)], each)
        low, high = watch.bracket()
    renewed = None if high is None else _renewed(watch, low, high)
    return _result(watch, renewed, None if high is not None else f"nothing was lost within {low:,.0f} s")


def _control(watch: _Watch) -> bool:
    """Whether a prompt that is sent again at once is served: without it a loss means nothing."""
    for _ in range(3):
        spec = watch.new()
        watch.ask(spec)
        if watch.ask(spec):
            return True
    return False


def _renewed(watch: _Watch, low: float, high: float) -> bool | None:
    """Use a prompt before its time, and ask when it would be over: once more if gone, it may be pushed out."""
    for _ in range(2):
        spec = watch.new()
        watch.ask(spec)
        since = watch.now()
        watch.sleep(0.6 * low)
        if not watch.ask(spec):
            continue
        # Past the time since it was stored, and well within the time since it was used.
        watch.sleep(max(0.0, since + min(1.02 * high, 1.5 * low) - watch.now()))
        if watch.now() - since <= high:
            return None
        if watch.ask(spec):
            return True
    return False


def _result(watch: _Watch, renewed: bool | None, reason: str | None) -> LearnedLifetime:
    low, high = watch.bracket()
    groups: dict[float, list[bool]] = {}
    for one in sorted(watch.waited, key=lambda one: one.wait_s):
        groups.setdefault(round(one.wait_s, 1), []).append(one.kept)
    return LearnedLifetime(
        ttl_s_low=low,
        ttl_s_high=high,
        survived_s=low,
        renewed_by_use=renewed,
        curve=tuple(Survival(wait, sum(kept), len(kept)) for wait, kept in groups.items()),
        evicted=sum(not one.kept and one.wait_s < low for one in watch.waited),
        reason=reason,
        requests=watch.requests,
        prompt_tokens=watch.requests * watch.prompt_tokens,
    )
