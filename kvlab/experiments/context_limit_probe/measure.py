"""The steps of a probe: growth, bisection, quality and cold TTFT on the endpoint; children; replays."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from kvlab.experiment import Measuring
from kvlab.experiments.context_limit_probe import in_process, material, replay
from kvlab.experiments.context_limit_probe.bench import Bench
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, QUALITY
from kvlab.experiments.context_limit_probe.outcomes import WORDS, ProbeOutcome
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.probe import try_size
from kvlab.experiments.context_limit_probe.search import (
    DOUBLING,
    STATED,
    bracket,
    confirmed,
    first_loss,
    next_size,
)
from kvlab.prompts import manual
from kvlab.records import Recorded, Trial
from kvlab.taxonomy import ErrorType

if TYPE_CHECKING:
    from kvlab.session import Session

NOT_NEEDED = "not needed"


def measure(session: "Session[ContextLimitProbeParams]", trial: Trial) -> Measuring:
    """Take one step, with its stretch of the memory timeline.

    Where an earlier step has answered it, there are no requests.
    """
    bench, kind = session.state, trial.planned["kind"]
    if kind not in ("child", "child_cut"):
        bench.wait_for_server()
    with bench.watched(trial):
        return (yield from _STEPS[kind](bench, trial))


def _grow(bench: Bench, trial: Trial) -> Measuring:
    """Try the context of a planned number of exchanges, and ask for the facts at its start."""
    count = int(trial.planned["exchanges"])
    failed = bracket(confirmed(bench.ledger.probes(ENDPOINT))).failed
    prompt = bench.prompt(bench.conversation(count))
    if failed is not None and bench.size(prompt) >= failed.size:
        return NOT_NEEDED
    row, outcome = yield from try_size(
        bench,
        trial,
        lambda mark: bench.prompt(bench.conversation(count, mark)),
        bench.params.decode_tokens,
        "growth",
        exchanges=count,
    )
    if outcome is ProbeOutcome.HELD:
        yield from _ask_for_the_facts(bench, trial, count)
    return _line(row, outcome)


def _cut(bench: Bench, trial: Trial) -> Measuring:
    """Try one length between the largest that was held and the smallest that was not, or beyond the former."""
    chosen = next_size(bench.ledger.probes(ENDPOINT), bench.params, bench.identity, bench.guess())
    if chosen.size is None and chosen.left_out_tokens is not None:
        return f"{chosen.left_out_tokens:,} tokens are not tried: {chosen.why}"
    if chosen.size is None:
        return NOT_NEEDED
    size, failed = chosen.size, bracket(confirmed(bench.ledger.probes(ENDPOINT))).failed
    if failed is not None and bench.size(bench.cut(size)) >= failed.size:
        return "no shorter context can be made"
    row, outcome = yield from try_size(bench, trial, lambda mark: bench.cut(size, mark), 1, chosen.why)
    lost_before = first_loss(bench.ledger.probes(QUALITY)).failed is not None
    if outcome is ProbeOutcome.HELD and chosen.why in (STATED, DOUBLING) and not lost_before:
        count = _exchanges_that_fit(bench)
        if count is not None:
            yield from _ask_for_the_facts(bench, trial, count)
    return _line(row, outcome)


def _exchanges_that_fit(bench: Bench) -> int | None:
    """Return how many exchanges make nearly the largest held size, if that is more than was planned."""
    held = [probe for probe in bench.ledger.probes(ENDPOINT) if probe.held]
    points = sorted(
        (probe.size, int(probe.detail["exchanges"])) for probe in held if "exchanges" in probe.detail
    )
    if len(points) < 2:
        return None
    (size, count), (last_size, last_count) = points[0], points[-1]
    each = (last_size - size) / (last_count - count)
    # One less: the question takes room, too.
    fitting = last_count + int((max(probe.size for probe in held) - last_size) / each) - 1
    return fitting if fitting > last_count else None


def _quality(bench: Bench, trial: Trial) -> Measuring:
    """Ask for the facts between the last point where they were answered and the first where not.

    Where they were answered at all points, ask near the longest accepted context: bisection may have gone beyond.
    """
    found = first_loss(bench.ledger.probes(QUALITY))
    if found.held is None:
        return NOT_NEEDED
    if found.failed is None:
        count = _exchanges_that_fit(bench)
        if count is None or count <= int(found.held.detail["exchanges"]):
            return NOT_NEEDED
        return (yield from _ask_for_the_facts(bench, trial, count))
    low, high = (int(probe.detail["exchanges"]) for probe in (found.held, found.failed))
    if high - low <= 1:
        return NOT_NEEDED
    return (yield from _ask_for_the_facts(bench, trial, (low + high) // 2))


def _cold(bench: Bench, trial: Trial) -> Measuring:
    """Take the TTFT of a context of which nothing is in the cache."""
    tokens = int(trial.planned["tokens"])
    if tokens > bracket(confirmed(bench.ledger.probes(ENDPOINT))).low:
        return NOT_NEEDED
    mark = manual.marker(bench.session.run.isolation_id, bench.session.tag(trial))
    row = bench.ask(trial, "cold", bench.cut_tokens(tokens, mark), bench.params.decode_tokens, tokens)
    yield replace(row, expected=False)  # the TTFT is all that is wanted: without one, it failed
    return _line(row)


def _ask_for_the_facts(bench: Bench, trial: Trial, count: int) -> Measuring:
    """Ask for every fact at the start of a context of ``count`` exchanges."""
    params = bench.params
    known = material.codes(params.text_seed, params.needles)
    right, tokens, line = 0, 0, NOT_NEEDED
    for place, code in known.items():
        messages = material.question(
            bench.mark, params.needles, params.growth, params.text_seed, count, place
        )
        prompt = bench.prompt(messages, material.ANSWER_PREFIX.format(place=place))
        row = bench.ask(trial, f"needle-{place.replace(' ', '_')}", prompt, material.ANSWER_TOKENS)
        failure = row.measurement.failure
        refused = failure is not None and failure.error_type is ErrorType.REFUSED_INPUT
        # The context was just held: a refusal is no reason to end the run.
        yield replace(row, expected=row.expected or refused)
        line = _line(row) if line == NOT_NEEDED else line
        if not row.was_read:
            return line
        answer = row.measurement.generation
        right += answer is not None and material.is_answered(answer.text, code)
        counted = None if bench.counts_only_computed else row.evidence.prompt_tokens
        tokens = counted or bench.length(prompt)
    if known:
        outcome = (
            ProbeOutcome.HELD if right >= params.needle_min_share * len(known) else ProbeOutcome.QUALITY_LOST
        )
        probe_id = bench.ledger.begin(trial.trial_id, QUALITY, tokens, "growth")
        bench.ledger.end(probe_id, outcome, right=right, asked=len(known), exchanges=count)
    return line


def _line(row: Recorded, outcome: ProbeOutcome | None = None) -> str:
    """Return what became of a request; an outcome that its answer does not show is said."""
    if row.was_read and outcome not in (None, ProbeOutcome.HELD):
        return f"{row.target_tokens} tokens: {WORDS[outcome]}"
    failure = row.measurement.failure
    if failure is not None and not row.was_read:
        return failure.message[:120]
    ttft = row.measurement.stamps.ttft_ms
    return f"{row.evidence.prompt_tokens} tokens" + ("" if ttft is None else f", TTFT {ttft:.0f} ms")


_STEPS: dict[str, Callable[[Bench, Trial], Measuring]] = {
    "grow": _grow,
    "cut": _cut,
    "quality": _quality,
    "cold": _cold,
    "child": in_process.grow_child,
    "child_cut": in_process.cut_child,
    "replay": replay.replay,
}
