"""Why was this request cold? A named cause, or "unknown": never a guess.

A cause is named only where it is the only one that the facts leave: the cache's law, its capacity and
lifetime as they were measured, and what was sent before. Between "held for certain" and "gone for certain"
(the ends of a measured range) nothing is named.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from kvlab.laws.law import CacheLaw


class MissCause(StrEnum):
    """Why less was served than the prompt shares with an earlier one."""

    NONE = "no miss"
    CACHE_OFF = "cache off"
    NEVER_SEEN = "never seen"
    DIFFERS = "differs"
    BELOW_MINIMUM = "shorter than the minimum"
    BELOW_GRAIN = "below one grain"
    EVICTED = "evicted"
    EXPIRED = "expired"
    OTHER_TENANT = "other salt or tenant"
    OTHER_REPLICA = "other replica"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Request:
    """A request of a run.

    Attributes:
        request_id: Unique.
        tokens: The whole prompt's token ids, template included.
        sent_s: When, on one clock.
        cached_tokens: What the server said; ``None``: nothing.
        tenant: Salt, key or user.
        replica: Which one answered; ``None``: not known.
        failed: No answer came, so perhaps nothing was stored.
    """

    request_id: str
    tokens: Sequence[int]
    sent_s: float
    cached_tokens: int | None = None
    tenant: str | None = None
    replica: str | None = None
    failed: bool = False


@dataclass(frozen=True)
class Knowledge:
    """What was measured of the server; ``None``: it was not.

    Attributes:
        law: Of reuse.
        cache_on: Whether anything was ever served from the cache.
        capacity_low: Tokens that it holds for certain.
        capacity_high: Tokens that it does not hold for certain.
        ttl_low_s: Entries live so long for certain.
        ttl_high_s: And no longer than this.
        tenants_share: Whether tenants share prefixes.
        others: Whether others use the server: then room is taken that is not seen here.
    """

    law: CacheLaw | None = None
    cache_on: bool | None = None
    capacity_low: int | None = None
    capacity_high: int | None = None
    ttl_low_s: float | None = None
    ttl_high_s: float | None = None
    tenants_share: bool | None = None
    others: bool = True


@dataclass(frozen=True)
class Cause:
    """The answer.

    Attributes:
        cause: Its name.
        why: One sentence with the figures.
        earlier: The request that shares the most, where there is one.
        shared_tokens: How many leading tokens it shares.
        expected_tokens: What the law says would have been served, had nothing gone.
    """

    cause: MissCause
    why: str
    earlier: str | None = None
    shared_tokens: int = 0
    expected_tokens: int | None = None


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many leading tokens two prompts share.

    >>> common_prefix([1, 2, 3], [1, 2, 4])
    2
    """
    shorter = min(len(a), len(b))
    low = 0
    step = 256  # slices compare fast
    while low < shorter and a[low : low + step] == b[low : low + step] and low + step <= shorter:
        low += step
    while low < shorter and a[low] == b[low]:
        low += 1
    return low


def explain(request: Request, history: Sequence[Request], known: Knowledge) -> Cause:
    """Return why a request was served less than its longest shared prefix allows.

    Args:
        request: The one that was cold, or served in part.
        history: All earlier requests of the run, in order of time, so far as they are known.
        known: What was measured of the server.
    """
    cached = request.cached_tokens
    if cached is None:
        return Cause(MissCause.UNKNOWN, "the server did not say how many tokens were cached")
    earlier = [one for one in history if one.sent_s < request.sent_s and not one.failed]
    best = max(earlier, key=lambda one: common_prefix(one.tokens, request.tokens), default=None)
    shared = common_prefix(best.tokens, request.tokens) if best else 0
    if known.law is None:
        return Cause(MissCause.UNKNOWN, "the law of this cache is not known", None, shared)
    start = known.law.shared_start_tokens
    expected = known.law.predict(len(request.tokens), shared)
    if cached >= known.law.full_hit(len(request.tokens)) > 0:
        return Cause(
            MissCause.NONE, f"{cached:,} tokens were cached, all that can be", None, shared, expected
        )
    if known.cache_on is False:
        return Cause(MissCause.CACHE_OFF, "nothing was ever served from this cache", None, shared, expected)
    if best is None or shared <= start:
        others = " by this run" if known.others else ""
        return Cause(
            MissCause.NEVER_SEEN, f"no earlier prompt{others} starts like it", None, shared, expected
        )
    if cached >= expected:
        return _prompt_itself(request, best, shared, expected, known.law)
    return _gone(request, earlier, known, cached)


def _prompt_itself(request: Request, best: Request, shared: int, expected: int, law: CacheLaw) -> Cause:
    """All was served that the shared prefix allows: so the prompt is to blame."""
    facts = (best.request_id, shared, expected)
    length = len(request.tokens)
    if shared < length:
        at = f"token {shared + 1:,} of {length:,} is another one than in {best.request_id}"
        if expected:
            return Cause(MissCause.DIFFERS, f"{at}; {expected:,} tokens before it were served", *facts)
    else:
        at = f"all {length:,} tokens are those of {best.request_id}"
    usable = min(shared, length - law.always_computed_tokens)
    unit = (1 + law.grains_off) * law.grain_tokens
    if usable < unit:
        why = f"{at}; fewer than {unit:,} tokens can't be served in grains of {law.grain_tokens:,}"
        return Cause(MissCause.BELOW_GRAIN, why, *facts)
    if usable < law.minimum_tokens:
        return Cause(MissCause.BELOW_MINIMUM, f"{at}; below {law.minimum_tokens:,} nothing is served", *facts)
    return Cause(MissCause.DIFFERS if shared < length else MissCause.UNKNOWN, at, *facts)


def _gone(request: Request, earlier: Sequence[Request], known: Knowledge, cached: int) -> Cause:
    """Less was served than the law allows: which of the reasons is the only one that is possible?"""
    assert known.law is not None  # noqa: S101 - the caller looked
    law, length = known.law, len(request.tokens)
    sharing = [
        one for one in earlier if law.predict(length, common_prefix(one.tokens, request.tokens)) > cached
    ]
    # What every prompt that shares enough has in common is certain; else it may be any of them.
    tenant = [one for one in sharing if known.tenants_share is True or one.tenant == request.tenant]
    best = sharing[-1]
    shared = common_prefix(best.tokens, request.tokens)
    facts = (best.request_id, shared, law.predict(length, shared))
    if not tenant:
        if known.tenants_share is None:
            return Cause(
                MissCause.UNKNOWN,
                f"{best.request_id} was another tenant's; whether tenants share is not known",
                *facts,
            )
        return Cause(
            MissCause.OTHER_TENANT,
            f"{best.request_id} was sent as {best.tenant!r}, this one as {request.tenant!r}",
            *facts,
        )
    here = [one for one in tenant if None in (one.replica, request.replica) or one.replica == request.replica]
    if not here:
        best = tenant[-1]
        return Cause(
            MissCause.OTHER_REPLICA,
            f"{best.request_id} was answered by {best.replica}, this one by {request.replica}",
            *facts,
        )
    last = here[-1]
    if None in (last.replica, request.replica) and len({one.replica for one in earlier}) > 1:
        return Cause(MissCause.UNKNOWN, "several replicas answer, and which one did is not known", *facts)
    return _age_or_room(request, last, earlier, known, facts)


def _age_or_room(
    request: Request, last: Request, earlier: Sequence[Request], known: Knowledge, facts: tuple[str, int, int]
) -> Cause:
    idle = request.sent_s - last.sent_s
    between = [one for one in earlier if last.sent_s < one.sent_s and one.replica in (None, request.replica)]
    room = _distinct(between, last) + len(last.tokens)
    expired = _beyond(idle, known.ttl_low_s, known.ttl_high_s)
    evicted = _beyond(room, known.capacity_low, known.capacity_high)
    if evicted is False and known.others:
        evicted = None  # others' prompts take room that is not seen here
    after = f"{len(between)} prompts, {room:,} tokens together with it, came after {last.request_id}"
    if expired and evicted is False:
        return Cause(
            MissCause.EXPIRED, f"{idle:,.1f} s idle; entries live {known.ttl_high_s:,.1f} s at most", *facts
        )
    if evicted and expired is False:
        by = f", the first of them {between[0].request_id}" if between else ""
        return Cause(
            MissCause.EVICTED, f"{after}{by}; the cache holds {known.capacity_high:,} at most", *facts
        )
    possible = [name for name, state in (("expired", expired), ("evicted", evicted)) if state is not False]
    why = f"{idle:,.1f} s idle; {after}; " + (
        f"possible: {' or '.join(possible)}" if possible else "nothing known explains it"
    )
    return Cause(MissCause.UNKNOWN, why, *facts)


def _beyond(value: float, low: float | None, high: float | None) -> bool | None:
    """Whether a value is beyond a limit that lies between low and high; ``None``: not certain.

    A limit that was not found is none only where its low end is infinite.
    """
    if high is not None and value > high:
        return True
    if low is not None and value <= low:
        return False
    return None


def _distinct(requests: Sequence[Request], last: Request) -> int:
    """Return how many tokens these prompts store that ``last`` did not: shared prefixes count once."""
    total, seen = 0, [last]
    for one in requests:
        total += len(one.tokens) - max(common_prefix(one.tokens, other.tokens) for other in seen)
        seen.append(one)
    return total
