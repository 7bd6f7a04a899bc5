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
        by_use: Whether what was used last goes last; ``None`` or no: then all that was ever sent may have
            taken room.
        renewed_by_use: Whether use starts the lifetime anew; ``None`` or no: then it may have begun when the
            prompt was first sent.
        others: Whether others use the server: then room is taken that is not seen here.
    """

    law: CacheLaw | None = None
    cache_on: bool | None = None
    capacity_low: int | None = None
    capacity_high: int | None = None
    ttl_low_s: float | None = None
    ttl_high_s: float | None = None
    tenants_share: bool | None = None
    by_use: bool | None = None
    renewed_by_use: bool | None = None
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
        known_apart = known.tenants_share is False and any(_one_replica(one, request) for one in sharing)
        if not known_apart:
            why = f"{best.request_id} was another tenant's; whether that is all is not known"
            return Cause(MissCause.UNKNOWN, why, *facts)
        why = f"{best.request_id} was sent as {best.tenant!r}, this one as {request.tenant!r}"
        return Cause(MissCause.OTHER_TENANT, why, *facts)
    here = [one for one in tenant if _one_replica(one, request)]
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
    return _age_or_room(request, here, earlier, known, facts)


def _one_replica(one: Request, other: Request) -> bool:
    """Whether the same replica may have answered both."""
    return None in (one.replica, other.replica) or one.replica == other.replica


def _age_or_room(
    request: Request,
    here: Sequence[Request],
    earlier: Sequence[Request],
    known: Knowledge,
    facts: tuple[str, int, int],
) -> Cause:
    assert known.law is not None  # noqa: S101 - the caller looked
    last = here[-1]
    same = [one for one in earlier if one.replica in (None, request.replica)]
    between = [one for one in same if last.sent_s < one.sent_s]
    # What came since the last use is gone past for certain; what may count at most depends on the rules.
    least = _stored(between, last, known)
    most = _stored(between if known.by_use else same, last, known, up=True)
    idle = request.sent_s - last.sent_s
    longest_idle = idle
    if not known.renewed_by_use:  # its first grain may be as old as the first prompt that starts like it
        alike = (
            one.sent_s for one in same if common_prefix(one.tokens, request.tokens) >= known.law.grain_tokens
        )
        longest_idle = request.sent_s - min(alike, default=last.sent_s)
    expired = _beyond(idle, longest_idle, known.ttl_low_s, known.ttl_high_s)
    evicted = _beyond(least, most, known.capacity_low, known.capacity_high)
    if evicted is False and known.others:
        evicted = None  # others' prompts take room that is not seen here
    after = f"{len(between)} prompts, {least:,} tokens together with it, came after {last.request_id}"
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
    guess = f"possible: {' or '.join(possible)}" if possible else "nothing known explains it"
    return Cause(MissCause.UNKNOWN, f"{idle:,.1f} s idle; {after}; {guess}", *facts)


def _beyond(least: float, most: float, low: float | None, high: float | None) -> bool | None:
    """Whether a value between ``least`` and ``most`` is beyond a limit between ``low`` and ``high``.

    ``None``: not certain. A limit that does not exist has an infinite ``low``.
    """
    if high is not None and least > high:
        return True
    if low is not None and most <= low:
        return False
    return None


def _stored(requests: Sequence[Request], last: Request, known: Knowledge, *, up: bool = False) -> int:
    """Return how many tokens these prompts and ``last`` store together: whole grains, shared prefixes once.

    ``up``: the most that it may be. A prompt's end that fills no grain may take the room of one, and what
    other tenants sent may be stored a second time.
    """
    grain = known.law.grain_tokens if known.law else 1
    once = known.tenants_share is True or (known.tenants_share is None and not up)
    total = 0
    seen: list[Request] = []
    for one in [last, *(other for other in requests if other is not last)]:
        like = (other for other in seen if once or other.tenant == one.tenant)
        shared = max((common_prefix(one.tokens, other.tokens) for other in like), default=0)
        end = -(-len(one.tokens) // grain) if up else len(one.tokens) // grain
        total += max(0, end - shared // grain) * grain
        seen.append(one)
    return total
