"""One size, tried on the endpoint: what is asked, what is asked again where the answer shows too little, and the outcome.

A server's word is held against a second request before it counts:

- An answer without text shows nothing by its usage alone: some servers count a prompt that they never read. It is
  asked again for more tokens, and only tokens that were generated show that it was read.
- A count that is too small for the prompt means that it was cut, or that only newly computed tokens are counted. The
  same size under a marker that no cache knows tells the two apart.
- A refusal in unknown words is one of the length if a shorter context is still accepted after it.
"""

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from typing import Any

from kvlab.evidence import as_tokens
from kvlab.experiments.context_limit_probe.bench import Bench
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, Probe
from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome, Seen, classify, stated_maximum
from kvlab.experiments.context_limit_probe.search import (
    STATED,
    bracket,
    confirmed,
    is_on_the_plateau,
    least_tokens,
)
from kvlab.prompts import manual
from kvlab.records import Recorded, Trial
from kvlab.taxonomy import REFUSES_ALL, ErrorType
from kvlab.vram.cache_usage import capacity

#: Makes the prompt of the size that is tried; with a marker, one that shares nothing with the growing context.
Build = Callable[[str | None], Mapping[str, Any]]
#: A repeat that is counted as less than this share of itself is counted without what was in the cache.
_SAME_SHARE = 0.75


def try_size(
    bench: Bench,
    trial: Trial,
    build: Build,
    max_tokens: int,
    why: str,
    **detail: Any,  # noqa: ANN401 - JSON
) -> Generator[Recorded, None, tuple[Recorded, ProbeOutcome | None]]:
    """Write a size down, try it, write down what became of it, and give its requests.

    Returns the request that decided, and the outcome; ``None``: it says nothing about the size.
    """
    fresh = manual.marker(bench.session.run.isolation_id, bench.session.tag(trial))
    prompt = build(fresh if bench.counts_only_computed else None)
    tokens = bench.length(prompt)
    if bench.by_characters:
        detail |= {"characters": bench.size(prompt), "planned": tokens}
    bench.wait_for_server()
    probe_id = bench.ledger.begin(trial.trial_id, ENDPOINT, tokens, why, **detail)
    one = _OneSize(bench, trial, probe_id, max_tokens, why)
    one.mark = fresh if bench.counts_only_computed else None
    outcome = one.first(prompt)
    if outcome is ProbeOutcome.TRUNCATED and not bench.counts_only_computed:
        prompt, one.mark = build(fresh), fresh
        outcome = one.again_with_nothing_cached(prompt)
    if outcome is ProbeOutcome.HELD and not one.row.ok:
        outcome = one.again_for_more_tokens(prompt)
    elif outcome is None and _may_be_its_length(one.row):
        outcome = one.is_a_shorter_one_accepted()
    if outcome is ProbeOutcome.HELD and one.row.ok:
        one.is_a_repeat_counted_the_same(prompt)
    expected = one.finish(outcome)
    for row in one.rows:
        yield replace(row, expected=row.expected or expected)
    return one.row, outcome


def _may_be_its_length(row: Recorded) -> bool:
    failure = row.measurement.failure
    refused = failure is not None and failure.error_type is ErrorType.REFUSED_INPUT
    return refused and failure is not None and failure.http_status not in REFUSES_ALL


class _OneSize:
    """A size that is being tried.

    Attributes:
        row: The request that decides.
        rows: All requests, in the order of asking.
        facts: What was found out beside it, for the ledger.
        mark: The marker of its prompts; ``None``: the growing context's.
    """

    def __init__(self, bench: Bench, trial: Trial, probe_id: int, max_tokens: int, why: str) -> None:
        self.bench, self.trial, self.probe_id = bench, trial, probe_id
        self.max_tokens, self.why = max_tokens, why
        self.rows: list[Recorded] = []
        self.facts: dict[str, Any] = {}
        self.row: Recorded
        self.mark: str | None = None

    def _ask(self, arm: str, prompt: Mapping[str, Any], max_tokens: int) -> Recorded:
        row = self.bench.ask(self.trial, arm, prompt, max_tokens, self.bench.length(prompt))
        self.rows.append(row)
        return row

    def first(self, prompt: Mapping[str, Any]) -> ProbeOutcome | None:
        """Ask for the size."""
        before = self.bench.preemptions()
        arm = "probe-fresh" if self.bench.counts_only_computed else "probe"
        self.row = self._ask(arm, prompt, self.max_tokens)
        after = self.bench.preemptions()
        preempted = None if before is None or after is None else after - before
        return _outcome(self.bench, self.row, prompt, preempted)

    def again_for_more_tokens(self, prompt: Mapping[str, Any]) -> ProbeOutcome | None:
        """Find out whether an answer without text was one: whether tokens are generated at this length.

        The prompt is shortened by as many tokens as are asked for, so that prompt and answer together are as
        long as before: at the limit itself there would be no room for them.
        """
        if self.max_tokens > 1 and generated(self.row) >= self.max_tokens:
            return ProbeOutcome.HELD
        bench, more = self.bench, self.bench.params.decode_tokens
        # The scale is a guess, so a little more is cut where it is needed.
        per_token = 1.2 * bench.scale().characters_per_token if bench.by_characters else 1.0
        shorter = bench.cut(bench.size(prompt) - math.ceil(per_token * more), self.mark)
        row = self._ask("probe-again", shorter, more)
        failure, answer = row.measurement.failure, row.measurement.generation
        ended_itself = answer is not None and answer.finish_reason != "length"
        if ended_itself or (row.was_read and generated(row) >= more):
            return ProbeOutcome.HELD
        if failure is None:
            return ProbeOutcome.NOTHING  # it had room for less than was asked for: the limit lies between
        refused = failure.error_type in (ErrorType.EMPTY_OUTPUT, ErrorType.REFUSED_INPUT)
        return ProbeOutcome.NOTHING if refused else None

    def again_with_nothing_cached(self, prompt: Mapping[str, Any]) -> ProbeOutcome | None:
        """Find out whether too small a count is that of a cut prompt, or leaves out what was in the cache."""
        self.row = self._ask("probe-fresh", prompt, self.max_tokens)
        outcome = _outcome(self.bench, self.row, prompt, None)
        if outcome is ProbeOutcome.HELD:
            self.facts["counts"] = "computed"
        return outcome

    def is_a_shorter_one_accepted(self) -> ProbeOutcome | None:
        """Find out whether a refusal in unknown words is one of the length: whether a shorter one is accepted."""
        held = bracket(confirmed(self.bench.ledger.probes(ENDPOINT))).held
        if held is None:
            return ProbeOutcome.REFUSED  # whatever it means, something shorter is to be tried
        control = self._ask("control", self.bench.cut(held.size), 1)
        return ProbeOutcome.REFUSED if control.was_read else None

    def is_a_repeat_counted_the_same(self, prompt: Mapping[str, Any]) -> None:
        """Find out, once and at the smallest size, whether counts leave out what is in the cache.

        Where lengths are known by the server's counts alone, a count that is a little too small would
        not be seen later.
        """
        counted = self.row.evidence.prompt_tokens
        if not self.bench.by_characters or counted is None or self.bench.counts_known:
            return
        again = self._ask("recount", prompt, 1).evidence.prompt_tokens
        if again is not None:
            self.facts["counts"] = "all" if again >= _SAME_SHARE * counted else "computed"

    def finish(self, outcome: ProbeOutcome | None) -> bool:
        """Write down what became of it. Returns whether a failure is what was looked for."""
        row, bench = self.row, self.bench
        if outcome is None:
            bench.ledger.withdraw(self.probe_id)
            return False
        counted, failure = row.evidence.prompt_tokens, row.measurement.failure
        nothing = outcome is ProbeOutcome.NOTHING
        message = failure.message if failure is not None and (nothing or not row.was_read) else None
        bench.ledger.end(
            self.probe_id,
            outcome,
            tokens=counted if outcome is ProbeOutcome.HELD else None,
            counted=counted,
            request_id=row.request_id,
            message=message,
            stated=self._stated(message),
            ttft_ms=row.measurement.stamps.ttft_ms,
            cached_tokens=row.label.cached_tokens,
            capacity=capacity(bench.engine.connection.metrics.scrape()),
            **self.facts,
        )
        # A cause that nobody names is tried again; the second time, it is the answer.
        known = confirmed(bench.ledger.probes(ENDPOINT))
        return any(each.probe_id == self.probe_id for each in known)

    def _stated(self, message: str | None) -> int | None:
        if message is None:
            return None
        held = bracket(confirmed(self.bench.ledger.probes(ENDPOINT))).low
        tokens = self.row.target_tokens or 0
        asked = tokens + self.max_tokens
        # A number that repeats what was asked for is not a maximum; but a stated one is asked for to the token.
        repeated = {asked} if self.why == STATED else {asked, tokens}
        most = round(1.5 * asked) if self.bench.by_characters else asked
        return stated_maximum(message, held_tokens=held, asked_tokens=most, repeated=repeated)


def generated(row: Recorded) -> int:
    """Return how many tokens a server says that it generated, with text or without; 0 where it does not say."""
    return as_tokens((row.measurement.usage or {}).get("completion_tokens")) or 0


def _outcome(
    bench: Bench, row: Recorded, prompt: Mapping[str, Any], preempted: float | None
) -> ProbeOutcome | None:
    size, tokens = bench.size(prompt), row.target_tokens or 0
    counted, maximum = row.evidence.prompt_tokens, bench.identity.max_model_len
    known = bench.ledger.probes(ENDPOINT)
    room = None if maximum is None else int(1.1 * maximum) if bench.by_characters else maximum - 1
    seen = Seen(
        tokens=tokens,
        failure=row.measurement.failure,
        counted_tokens=counted,
        least_tokens=_least(bench, known, size, tokens),
        room_tokens=room,
        alive=row.was_read or bench.alive(),
        preemptions=preempted,
    )
    found = classify(seen)
    if (
        found is ProbeOutcome.HELD
        and bench.by_characters
        and counted is not None
        and is_on_the_plateau(known, size, counted)
    ):
        return ProbeOutcome.TRUNCATED
    return found


def _least(bench: Bench, known: list[Probe], size: int, tokens: int) -> float:
    if bench.by_characters:
        return least_tokens(known, size, bench.guess() or bench.scale())
    # A chat template may be applied in another way when tokens are counted than when they are read.
    return tokens if bench.exact else tokens - max(8, tokens // 100)
