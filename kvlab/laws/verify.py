"""The minimum, the cap, and the prompts that a law must predict before it is claimed.

Held-out prompts are not drawn blindly: between two steps a wrong law is right too. They stand at a step
and one token before it, are repeated whole at such lengths, are as short as something served can be,
share nothing at all, or are as long as the law shall hold.
"""

from dataclasses import replace

from kvlab.laws.asking import RefitError, StoppedError
from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import PromptSpec
from kvlab.laws.study import Study

#: What hosted APIs document, in tokens.
COMMON_MINIMUMS = (1024, 2048, 4096)


def find_minimum(study: Study, law: CacheLaw) -> CacheLaw:
    """Return the law with the fewest tokens that are served, by bisection over whole units."""
    asker, grain, y = study.asker, law.grain_tokens, _y(law)
    first = max(1, y // grain)
    shortest = min(study.served())
    high, zeros = study.asker.shared[shortest] // grain, [first - 1]
    own = study.own(shortest)

    def ask(unit: int) -> int:
        return asker.along(max(0, unit * grain - y), own, "minimum") // grain

    while high - zeros[-1] > 1:
        unit = first if zeros == [first - 1] else _between(zeros[-1], high, grain)
        read = ask(unit)
        if read > unit:
            raise StoppedError(f"{read * grain} tokens were served where {unit * grain} were shared")
        if read:
            high = read
            zeros = [z for z in zeros if z < high] or [high - 1]
        else:
            zeros.append(unit)
        if high - zeros[-1] == 1 and zeros[-1] >= first:
            # Were the last zero an eviction, the minimum would be too high: ask it again.
            for _ in range(asker.sure_times - 1):
                if ask(zeros[-1]):
                    high = zeros.pop()
                    zeros = zeros or [first - 1]
                    break
    return replace(law, minimum_tokens=high * grain if high > first else 0)


def _between(zero: int, served: int, grain: int) -> int:
    """Return the unit to ask next: around a minimum that is common, or in the middle."""
    for minimum in COMMON_MINIMUMS:
        unit = -(-minimum // grain)
        if zero < unit - 1 < served:
            return unit - 1
        if zero == unit - 1 and unit < served:
            return unit
    return (zero + served) // 2


def find_cap(study: Study, law: CacheLaw) -> CacheLaw:
    """Return the law with the most tokens that are served, as far as the longest prompt shows one."""
    asker = study.asker
    longest = max(one.prompt_tokens for one in asker.asked)
    target = study.verify_to or 4 * longest
    own = min(study.longest_own, target - asker.overhead)
    if own + asker.overhead <= longest:
        return law
    spec = PromptSpec(own, own, asker.first_base)
    length = own + asker.overhead
    expected = law.predict(length, law.shared_start_tokens + study.base_tokens)
    asker.send(spec, "cap", predicted=expected)
    study.base_tokens = own  # so that held-out prompts can share as much
    expected = law.full_hit(length)
    read = 0
    for _ in range(asker.patience):
        read = max(read, asker.again(spec, "cap", predicted=expected))
        if read >= expected:
            break
    if read > expected:
        more = f"{read:,} of {length:,} tokens were served, more than the {expected:,} that was predicted"
        raise RefitError(more)
    if read == expected:
        return law
    if study.cap is not None or read < max(asker.shared.values(), default=0):
        raise StoppedError(f"{read} of {length} tokens were served, where {expected} were predicted")
    study.cap = read
    # A grain that grows with length looks like a cap just above it: twice as long tells.
    own = min(study.longest_own, 2 * read)
    if own + asker.overhead > length:
        spec = PromptSpec(own, own, asker.first_base)
        asker.send(spec, "cap")
        if (twice := asker.again(spec, "cap", predicted=read)) != read:
            raise StoppedError(
                f"a prompt of {own + asker.overhead:,} tokens read {twice:,}, another one {read:,}"
            )
    return replace(law, cap_tokens=read)


def held_out(study: Study, law: CacheLaw) -> None:
    """Ask the held-out prompts, and count them.

    Raises:
        StoppedError: The law is wrong: less was read than it predicts, as often as it was asked.
        RefitError: More was read than it predicts.
    """
    asker = study.asker
    for spec, whole in _planned(study, law):
        length, shared = spec.own_tokens + asker.overhead, law.shared_start_tokens + spec.shared_tokens
        expected = law.full_hit(length) if whole else law.predict(length, shared)
        read, tries = _ask(study, spec, whole, expected)
        study.held_out += 1
        study.predicted += read == expected
        if read == expected:
            continue
        what = f"{length:,} tokens, " + ("repeated" if whole else f"{spec.shared_tokens:,} of them shared")
        difference = (
            f"a prompt of {what}: {read:,} cached, {expected:,} predicted by {law.formula} ({tries} times)"
        )
        if read < expected:
            raise StoppedError(difference)
        if not whole and read > asker.shared.get(spec.shared_tokens, 0):
            asker.shared[spec.shared_tokens] = read
        raise RefitError(difference)


def _ask(study: Study, spec: PromptSpec, whole: bool, expected: int) -> tuple[int, int]:
    """Return the largest reading, asked again while it is too low, and how often it was asked."""
    asker, read, tries, same = study.asker, 0, 0, 0
    # Where nothing is to be served, an eviction would agree: ask again if there are any.
    least = 3 if not expected and spec.shared_tokens and asker.repeated_low else 1
    while tries < least or (tries < asker.patience and read < expected):
        tries += 1
        if whole:
            cached = asker.again(spec, "held out", predicted=expected)
        else:
            one = spec if tries == 1 else asker.fresh(spec.own_tokens, spec.shared_tokens)
            cached = asker.send(one, "held out", predicted=expected)
            asker.repeated_low += tries > 1 and cached > read
        same = same + 1 if cached == read and read else 0
        read = max(read, cached)
        if same == 2:  # three times the same is no eviction
            break
    return read, tries


def _planned(study: Study, law: CacheLaw) -> list[tuple[PromptSpec, bool]]:
    """Return the held-out prompts, and which of them are repeats."""
    asker, draw, grain, y = study.asker, study.random, law.grain_tokens, _y(law)
    tail, a = law.tail_grain_tokens or grain, law.always_computed_tokens
    least = max(1, law.minimum_tokens // grain, y // grain)
    least += least * grain - y < 0  # no prompt shares less than nothing of its own
    room = min(study.base_tokens - 1, study.longest_own - law.always_computed_tokens - grain - tail)
    if law.cap_tokens is not None:  # all but one of them below it, or the tail would never show
        room = min(room, law.cap_tokens - 2 * grain - tail - law.always_computed_tokens - y)
    most = max(least, (room + y) // grain)

    def point(unit: int, before: int = 0) -> int:
        return max(0, min(unit * grain - y - before, study.base_tokens - 1))

    def own(shared: int, residue: int) -> int:
        """A content length at which the tail does not bind, and L - a lies so far above a step."""
        length = shared + asker.overhead + law.always_computed_tokens + law.grains_off * grain + tail
        length += (a + residue - length) % tail
        return max(shared + 1, min(length - asker.overhead, study.longest_own))

    def any_unit() -> int:
        """Low and high ones alike: a law may hold for short prompts only."""
        share: float = (most / least) ** draw.random()
        return round(least * share)

    before, at = point(most - draw.randint(0, (most - least) // 4), 1), point(any_unit())
    edge, below = asker.fresh(own(before, 0), before), asker.fresh(own(at, tail - 1), at)
    bound = point(any_unit())
    tight = asker.fresh(min(study.longest_own, bound + draw.randint(1, max(1, tail))), bound)
    small = point(least)
    short = asker.fresh(min(study.longest_own, small + max(1, a)), small)
    cold = asker.fresh(draw.randint(max(2, small // 2), max(3, most * grain // 2)), 0)
    planned = [(edge, False), (below, False), (edge, True), (below, True), (tight, False), (short, False)]
    planned.append((cold, False))
    if law.minimum_tokens > grain:
        under = point(max(1, least - 1))
        planned.append((asker.fresh(own(under, 0), under), False))
    if law.cap_tokens is not None:
        beyond = min(study.base_tokens - 1, study.longest_own - 1)
        planned.append((asker.fresh(min(study.longest_own, beyond + study.tail_most), beyond), False))
    return planned


def _y(law: CacheLaw) -> int:
    return law.shared_start_tokens - law.grains_off * law.grain_tokens
