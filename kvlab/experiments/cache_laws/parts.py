"""The parts: each runs a learner of `kvlab.laws` and says what came out, as JSON."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from kvlab.endpoints.connect import Identity
from kvlab.experiments.cache_laws.params import CacheLawsParams
from kvlab.experiments.cache_laws.turns import Line
from kvlab.laws import fidelity, replicas
from kvlab.laws.capacity import learn_capacity
from kvlab.laws.law import CacheLaw
from kvlab.laws.learn import learn_law
from kvlab.laws.lifetime import learn_lifetime
from kvlab.laws.pool import OverBudgetError
from kvlab.laws.probe import Answer, PromptSpec
from kvlab.laws.sharing import learn_sharing
from kvlab.vram.cache_usage import capacity as declared_capacity

if TYPE_CHECKING:
    from kvlab.session import Session

#: Texts of the replicas' prompts, behind those of the tenants.
_REPLICA_TEXTS = 100
_NO_SALT = "the server does not honour cache_salt, so a prompt cannot be cold twice"


class LimitError(Exception):
    """A limit of the parameters was reached, and which."""


@dataclass(frozen=True)
class Wanted:
    """A question: a prompt, and how many tokens to generate."""

    spec: PromptSpec
    max_tokens: int = 1


@dataclass(frozen=True)
class Got:
    """Its answer, with the generated text."""

    answer: Answer
    text: str = ""


@dataclass(frozen=True)
class Known:
    """What is known before a part begins.

    Attributes:
        law: Of reuse; ``None``: unknown.
        source: ``learned`` or ``declared``.
        overhead_tokens: What the template adds to a prompt.
        declared_tokens: What the server says that its cache holds.
    """

    law: CacheLaw | None = None
    source: str | None = None
    overhead_tokens: int = 0
    declared_tokens: int | None = None


@dataclass(frozen=True)
class Part:
    """What a part is given."""

    params: CacheLawsParams
    known: Known
    known_start: int | None
    identity: Identity

    @property
    def longest(self) -> int:
        """The longest prompt, by the parameters and by the server's context."""
        room = self.identity.max_model_len
        most = self.params.max_prompt_tokens
        return most if room is None else min(most, room - 1)

    @property
    def law(self) -> CacheLaw:
        """The law of reuse.

        Raises:
            ValueError: It is not known.
        """
        if self.known.law is None:
            raise ValueError("the law of reuse is not known, and this is counted in its steps")
        return self.known.law

    @property
    def prompt_tokens(self) -> int:
        """A length that has whole steps to reuse, within the limits.

        Raises:
            ValueError: None has.
        """
        law = self.law
        length = max(self.params.part_prompt_tokens, self.known.overhead_tokens + 16)
        while law.full_hit(length) <= law.predict(length, 0) and length < self.longest:
            length = min(2 * length, self.longest)
        if law.full_hit(length) <= law.predict(length, 0) or length > self.longest:
            raise ValueError(f"a prompt of {self.longest:,} tokens is never served: nothing can be seen")
        return length


Asks = Line[Wanted, Got]


def known(session: "Session[CacheLawsParams]", learned: Mapping[str, Any] | None) -> Known:
    """Return what is known of a server before a part: as learned in this run, else as declared."""
    declared = _declared_capacity(session)
    if learned is not None and learned.get("law") is not None:
        law = CacheLaw(**learned["law"])
        return Known(law, "learned", int(learned["overhead_tokens"]), declared)
    stated = session.identity.law
    return Known(stated, None if stated is None else "declared", 0, declared)


def _declared_capacity(session: "Session[CacheLawsParams]") -> int | None:
    if not session.identity.can("metrics"):
        return None
    return declared_capacity(session.engine.connection.metrics.scrape())["tokens"]


def law(part: Part, line: Asks) -> dict[str, Any]:
    """Learn the law of reuse."""

    def probe(spec: PromptSpec) -> Answer:
        try:
            return line.ask(Wanted(spec)).answer
        except LimitError as limit:
            return Answer(None, None, note=str(limit))

    params = part.params
    found = learn_law(
        probe,
        max_prompt_tokens=part.longest,
        max_requests=params.max_requests,
        start_tokens=min(params.start_tokens, part.longest // 2),
        shared_start_tokens=part.known_start,
        seed=params.seed,
    )
    content = {name: value for name, value in asdict(found).items() if name != "asked"}
    content["asked"] = [
        {**asdict(one.spec), **{k: v for k, v in asdict(one).items() if k != "spec"}} for one in found.asked
    ]
    return content | {"longest": part.longest}


def capacity(part: Part, line: Asks) -> dict[str, Any]:
    """Find how much the cache holds, and what goes first."""
    law = part.law

    reached: list[str] = []

    def probe(spec: PromptSpec) -> Answer:
        try:
            answer = line.ask(Wanted(spec)).answer
        except LimitError as limit:
            reached.append(str(limit))
            raise OverBudgetError from None  # what is known by now is told all the same
        if answer.cached_tokens is None:
            raise ValueError(f"no cached tokens were said: {answer.note}")
        return answer

    found = learn_capacity(
        probe,
        law,
        overhead_tokens=part.known.overhead_tokens,
        prompt_units=max(8, part.params.part_prompt_tokens // law.grain_tokens),
        max_tokens=part.params.capacity_tokens,
        seed=part.params.seed,
    )
    content = asdict(found) | {"declared_tokens": part.known.declared_tokens}
    return content | ({"reason": reached[0]} if reached else {})


def lifetime(part: Part, line: Asks) -> dict[str, Any]:
    """Find how long an idle entry stays."""
    found = learn_lifetime(
        lambda spec: line.ask(Wanted(spec)).answer,
        part.law,
        prompt_tokens=part.prompt_tokens,
        limit_s=part.params.lifetime_limit_s,
        now=time.monotonic,
        sleep=line.sleep,
        overhead_tokens=part.known.overhead_tokens,
    )
    return asdict(found)


def sharing(part: Part, line: Asks) -> dict[str, Any]:
    """Find whether salts share a cache, and how many replicas answer."""

    def probe(spec: PromptSpec) -> Answer:
        return _answered(line.ask(Wanted(spec))).answer

    tokens, overhead, outcome = part.prompt_tokens, part.known.overhead_tokens, dict[str, Any]()
    if part.identity.can("salt"):
        law = replace(part.law, shared_start_tokens=0)  # a salt of its own has no shared start either
        found = learn_sharing(probe, law, tenants=("a", "b"), prompt_tokens=tokens, overhead_tokens=overhead)
        outcome["salt"] = asdict(found)
    else:
        why = part.identity.facts["salt"].why if "salt" in part.identity.facts else "not asked"
        outcome["salt"] = {"verdict": "unknown", "reason": f"no second tenant by cache_salt: {why}"}
    outcome["key"] = {"verdict": "unknown", "reason": "one key is configured, and two are needed"}
    try:
        seen = replicas.learn_replicas(
            probe, part.law, prompt_tokens=tokens, overhead_tokens=overhead, first_text=_REPLICA_TEXTS
        )
        outcome["replicas"] = asdict(seen)
    except ValueError as error:
        outcome["replicas"] = {"number": None, "at_least": None, "reason": str(error)}
    return outcome


def _answered(got: Got) -> Got:
    """Return what was got.

    Raises:
        ValueError: It is no answer at all: the request failed.
    """
    if got.answer.prompt_tokens is None and got.answer.ttft_ms is None and got.answer.note:
        raise ValueError(got.answer.note)
    return got


def compare(part: Part, line: Asks) -> dict[str, Any]:
    """Compare greedy answers after a hit with two cold ones, each of proven cache state."""
    if not part.identity.can("salt"):
        raise ValueError(_NO_SALT)
    tokens, triples, unproven = part.prompt_tokens, [], 0
    own, full = tokens - part.known.overhead_tokens, part.law.full_hit(tokens)
    start = part.law.predict(tokens, 0)
    for text in range(part.params.fidelity_prompts):
        got = [
            _answered(
                line.ask(Wanted(PromptSpec(own, own, text, tenant=tenant), part.params.fidelity_tokens))
            )
            for tenant in (f"a{text}", f"a{text}", f"b{text}")
        ]
        cold, hit, again = (one.answer.cached_tokens for one in got)
        proven = None not in (cold, hit, again) and hit == full and max(cold or 0, again or 0) <= start
        unproven += not proven
        if proven:
            answers = [fidelity.Continuation(tuple(one.text)) for one in got]
            triples.append((answers[1], answers[0], answers[2]))
    found = fidelity.judge(triples)
    content = {name: value for name, value in asdict(found).items() if name != "differences"}
    return content | {"first_differences": [one.first for one in found.differences], "unproven": unproven}


LEARNERS: dict[str, Callable[[Part, Asks], dict[str, Any]]] = {
    "law": law, "capacity": capacity, "lifetime": lifetime, "sharing": sharing, "fidelity": compare,
}  # fmt: skip


def line(part: str, outcome: Mapping[str, Any]) -> str:
    """Return one line about a part that is done."""
    asked = f"{outcome['requests']} requests, {outcome['prompt_tokens']:,} prompt tokens"
    if part == "law" and outcome.get("law") is not None:
        return f"{CacheLaw(**outcome['law']).words} ({outcome['predicted']} of {outcome['held_out']} predicted, {asked})"
    if part == "capacity" and outcome.get("tokens_low") is not None:
        high = outcome["tokens_high"]
        size = f"{outcome['tokens_low']:,} to {'unknown' if high is None else f'{high:,}'} tokens"
        return f"{size}, first goes: {outcome['policy'] or 'unknown'} ({asked})"
    if part == "sharing" and "salt" in outcome:
        return f"salts: {outcome['salt']['verdict']} ({asked})"
    if part == "fidelity" and "verdict" in outcome:
        return f"{outcome['verdict']} ({asked})"
    return f"{outcome.get('reason') or 'done'} ({asked})"
