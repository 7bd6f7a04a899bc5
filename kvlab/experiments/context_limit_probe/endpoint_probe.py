"""Growth, bisection, quality and cold TTFT on an endpoint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvlab.experiments.context_limit_probe import material
from kvlab.experiments.context_limit_probe.bench import Bench, bench_of
from kvlab.experiments.context_limit_probe.cache_usage import capacity
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, QUALITY, Bracket, bracket, settled
from kvlab.experiments.context_limit_probe.outcomes import Outcome, Seen, classify, stated_maximum
from kvlab.prompts import manual
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
    from kvlab.experiments.lab import Lab

#: The answer to a question after a fact is a handful of tokens.
ANSWER_TOKENS = 12


def grow(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    """Try the context of a planned number of exchanges, and ask for the facts at its start."""
    bench, count = bench_of(lab), int(trial.planned["exchanges"])
    failed = bracket(settled(bench.ledger.probes(ENDPOINT))).failed
    prompt = bench.prompt(bench.conversation(count))
    if failed is not None and bench.length(prompt) >= failed.tokens:
        return []
    row, outcome = probe(bench, trial, attempt, prompt, lab.params.decode_tokens, "growth", exchanges=count)
    if outcome is not Outcome.HELD:
        return [row]
    return [row, *_quality(bench, trial, attempt, count)]


def cut(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    """Try one length between the largest that was held and the smallest that was not."""
    bench = bench_of(lab)
    found = bracket(settled(bench.ledger.probes(ENDPOINT)))
    tokens, why = next_length(found, _maximum(bench, found), _tolerance(bench, found))
    if tokens is None:
        return []
    row, _ = probe(bench, trial, attempt, bench.cut(tokens), 1, why, planned_tokens=tokens)
    return [row]


def next_length(found: Bracket, stated: int | None, tolerance: int) -> tuple[int | None, str]:
    """Return the next length to try and why; ``None``: the limit is known, or nothing failed.

    A maximum that the server states is not believed but tried: one token less (room for one
    generated token), itself, and one more. Whatever is left is halved.
    """
    if found.failed is None:
        return None, "nothing failed"
    low, high = found.low, found.failed.tokens
    if stated is not None:
        for tokens in (stated, stated - 1, stated + 1):
            if low < tokens < high:
                return tokens, "stated maximum"
    if high - low <= max(1, tolerance):
        return None, "near enough"
    return (low + high) // 2, "bisection"


def quality(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    """Ask for the facts between the last point where they were answered and the first where not."""
    bench = bench_of(lab)
    found = bracket(bench.ledger.probes(QUALITY))
    if found.held is None or found.failed is None:
        return []
    low, high = (int(probe.detail["exchanges"]) for probe in (found.held, found.failed))
    return _quality(bench, trial, attempt, (low + high) // 2) if high - low > 1 else []


def cold(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    """Take the TTFT of a context of which nothing is in the cache."""
    bench, tokens = bench_of(lab), int(trial.planned["tokens"])
    limit = bracket(settled(bench.ledger.probes(ENDPOINT))).low
    if tokens > limit:
        return []
    prompt = bench.cut(tokens, manual.marker(lab.run.isolation_id, lab.tag(trial, attempt)))
    return [bench.ask(trial, attempt, "cold", prompt, lab.params.decode_tokens, tokens)]


def probe(
    bench: Bench,
    trial: Trial,
    attempt: int,
    prompt: Mapping[str, Any],
    max_tokens: int,
    why: str,
    *,
    planned_tokens: int | None = None,
    **detail: Any,  # noqa: ANN401 - JSON
) -> tuple[Recorded, Outcome | None]:
    """Write a length down, try it, and write down what became of it."""
    tokens = bench.length(prompt) if planned_tokens is None else planned_tokens
    bench.wait_for_server()
    before = bench.preemptions()
    probe_id = bench.ledger.begin(trial.trial_id, ENDPOINT, tokens, why)
    row = bench.ask(trial, attempt, "probe", prompt, max_tokens, tokens)
    after = bench.preemptions()
    failure = None if row.was_read else row.measurement.failure
    maximum = bench.identity.max_model_len
    seen = Seen(
        tokens=tokens,
        failure=failure,
        counted_tokens=row.evidence.prompt_tokens,
        count_is_exact=bench.exact,
        room_tokens=None if maximum is None else maximum - 1,
        alive=failure is None or bench.alive(),
        preemptions=None if before is None or after is None else after - before,
    )
    outcome = classify(seen)
    if outcome is None:
        bench.ledger.withdraw(probe_id)
        return row, None
    counted = None if outcome is Outcome.TRUNCATED else row.evidence.prompt_tokens
    message = None if failure is None else failure.message
    extra = {"request_id": row.request_id, "message": message, "stated": stated_maximum(message or "")}
    said = capacity(bench.engine.connection.metrics.scrape())
    bench.ledger.end(probe_id, outcome, tokens=counted, capacity=said, **extra, **detail)
    if failure is not None:
        bench.results.add(row.request_id)
    return row, outcome


def _quality(bench: Bench, trial: Trial, attempt: int, count: int) -> list[Recorded]:
    """Ask for every fact at the start of a context of ``count`` exchanges."""
    params, rows = bench.params, list[Recorded]()
    known = material.codes(params.text_seed, params.needles)
    right, tokens = 0, 0
    for place, code in known.items():
        messages = material.question(
            bench.mark, params.needles, params.growth, params.text_seed, count, place
        )
        prompt = bench.prompt(messages, material.ANSWER_PREFIX.format(place=place))
        row = bench.ask(trial, attempt, f"needle-{place.replace(' ', '_')}", prompt, ANSWER_TOKENS)
        rows.append(row)
        if not row.was_read:
            return rows
        answer = row.measurement.generation
        right += answer is not None and material.is_answered(answer.text, code)
        tokens = row.evidence.prompt_tokens or bench.length(prompt)
    if known:
        outcome = Outcome.HELD if right >= params.needle_min_share * len(known) else Outcome.QUALITY_LOST
        probe_id = bench.ledger.begin(trial.trial_id, QUALITY, tokens, "growth")
        bench.ledger.end(probe_id, outcome, right=right, asked=len(known), exchanges=count)
    return rows


def _maximum(bench: Bench, found: Bracket) -> int | None:
    """Return the maximum that the server states: in its refusals, else in its list of models."""
    stated = found.failed.detail.get("stated") if found.failed else None
    return int(stated) if stated else bench.identity.max_model_len


def _tolerance(bench: Bench, found: Bracket) -> int:
    if bench.params.resolution_tokens is not None:
        return bench.params.resolution_tokens
    return max(bench.identity.block_size or 1, found.low // 100)
