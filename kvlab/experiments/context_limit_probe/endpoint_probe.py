"""Growth, bisection, quality and cold TTFT on an endpoint."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvlab.experiments.context_limit_probe import material
from kvlab.experiments.context_limit_probe.aim import DOUBLING, STATED, next_aim
from kvlab.experiments.context_limit_probe.bench import Bench, bench_of
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, QUALITY, bracket, first_loss, settled
from kvlab.experiments.context_limit_probe.outcomes import Outcome, Seen, classify, stated_maximum
from kvlab.experiments.context_limit_probe.scale import is_on_the_plateau, least_tokens
from kvlab.prompts import manual
from kvlab.records import Recorded, Trial
from kvlab.taxonomy import ErrorType
from kvlab.vram.cache_usage import capacity

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
    from kvlab.session import Lab

#: The answer to a question after a fact is a handful of tokens.
ANSWER_TOKENS = 12


def grow(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    """Try the context of a planned number of exchanges, and ask for the facts at its start."""
    bench, count = bench_of(lab), int(trial.planned["exchanges"])
    failed = bracket(settled(bench.ledger.probes(ENDPOINT))).failed
    prompt = bench.prompt(bench.conversation(count))
    if failed is not None and bench.size(prompt) >= failed.size:
        return []
    row, outcome = probe(bench, trial, attempt, prompt, lab.params.decode_tokens, "growth", exchanges=count)
    if outcome is not Outcome.HELD:
        return [row]
    return [row, *_quality(bench, trial, attempt, count)]


def cut(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    """Try one length between the largest that was held and the smallest that was not, or beyond the former."""
    bench = bench_of(lab)
    aim = next_aim(bench.ledger.probes(ENDPOINT), lab.params, bench.identity, bench.guess())
    if aim.size is None:
        if aim.left_out_tokens is not None:
            print(f"{aim.left_out_tokens:,} tokens are not tried: {aim.why}", flush=True)
        return []
    row, outcome = probe(bench, trial, attempt, bench.cut(aim.size), 1, aim.why)
    beyond = outcome is Outcome.HELD and aim.why in (STATED, DOUBLING)
    return [row, *(_quality_beyond(bench, trial, attempt) if beyond else [])]


def _quality_beyond(bench: Bench, trial: Trial, attempt: int) -> list[Recorded]:
    """Ask for the facts near a size that no planned point reaches, unless they were lost before."""
    if first_loss(bench.ledger.probes(QUALITY)).failed is not None:
        return []
    held = [probe for probe in bench.ledger.probes(ENDPOINT) if probe.held]
    points = sorted(
        (probe.size, int(probe.detail["exchanges"])) for probe in held if "exchanges" in probe.detail
    )
    if len(points) < 2:
        return []
    (size, count), (last_size, last_count) = points[0], points[-1]
    each = (last_size - size) / (last_count - count)
    # One less: the question takes room, too.
    fitting = last_count + int((max(probe.size for probe in held) - last_size) / each) - 1
    return _quality(bench, trial, attempt, fitting) if fitting > last_count else []


def quality(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    """Ask for the facts between the last point where they were answered and the first where not."""
    bench = bench_of(lab)
    found = first_loss(bench.ledger.probes(QUALITY))
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
    prompt = bench.cut_tokens(tokens, manual.marker(lab.run.isolation_id, lab.tag(trial, attempt)))
    return [bench.ask(trial, attempt, "cold", prompt, lab.params.decode_tokens, tokens)]


def probe(
    bench: Bench,
    trial: Trial,
    attempt: int,
    prompt: Mapping[str, Any],
    max_tokens: int,
    why: str,
    **detail: Any,  # noqa: ANN401 - JSON
) -> tuple[Recorded, Outcome | None]:
    """Write a length down, try it, and write down what became of it."""
    size, tokens = bench.size(prompt), bench.length(prompt)
    if bench.by_characters:
        detail |= {"characters": size, "planned": tokens}
    bench.wait_for_server()
    before = bench.preemptions()
    probe_id = bench.ledger.begin(trial.trial_id, ENDPOINT, tokens, why, **detail)
    row = bench.ask(trial, attempt, "probe", prompt, max_tokens, tokens)
    after = bench.preemptions()
    preempted = None if before is None or after is None else after - before
    outcome = _outcome(bench, row, size, tokens, preempted)
    if outcome is None:
        bench.ledger.withdraw(probe_id)
        return row, None
    counted = row.evidence.prompt_tokens
    message = row.measurement.failure.message if row.measurement.failure and not row.was_read else None
    bench.ledger.end(
        probe_id,
        outcome,
        tokens=counted if outcome is Outcome.HELD else None,
        counted=counted,
        request_id=row.request_id,
        message=message,
        stated=stated_maximum(message or ""),
        ttft_ms=row.measurement.stamps.ttft_ms,
        cached_tokens=row.label.cached_tokens,
        capacity=capacity(bench.engine.connection.metrics.scrape()),
    )
    # A cause that nobody names is tried again; the second time, it is the answer.
    ended = [each for each in settled(bench.ledger.probes(ENDPOINT)) if each.probe_id == probe_id]
    if not row.ok and ended:
        bench.results.add(row.request_id)
    return row, outcome


def _outcome(bench: Bench, row: Recorded, size: int, tokens: int, preempted: float | None) -> Outcome | None:
    counted, maximum = row.evidence.prompt_tokens, bench.identity.max_model_len
    known = bench.ledger.probes(ENDPOINT)
    least: float = tokens
    if bench.by_characters:
        least = least_tokens(known, size, bench.guess() or bench.scale())
    elif not bench.exact:
        # A chat template may be applied in another way when tokens are counted than when they are read.
        least = tokens - max(8, tokens // 100)
    room = None if maximum is None else int(1.1 * maximum) if bench.by_characters else maximum - 1
    seen = Seen(
        tokens=tokens,
        failure=row.measurement.failure,
        counted_tokens=counted,
        least_tokens=least,
        room_tokens=room,
        alive=row.was_read or bench.alive(),
        preemptions=preempted,
    )
    found = classify(seen)
    if (
        found is Outcome.HELD
        and bench.by_characters
        and counted is not None
        and is_on_the_plateau(known, size, counted)
    ):
        return Outcome.TRUNCATED
    return found


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
            failure = row.measurement.failure
            if failure is not None and failure.error_type is ErrorType.REFUSED_INPUT:
                bench.results.add(row.request_id)  # the context was just held: no reason to end the run
            return rows
        answer = row.measurement.generation
        right += answer is not None and material.is_answered(answer.text, code)
        tokens = row.evidence.prompt_tokens or bench.length(prompt)
    if known:
        outcome = Outcome.HELD if right >= params.needle_min_share * len(known) else Outcome.QUALITY_LOST
        probe_id = bench.ledger.begin(trial.trial_id, QUALITY, tokens, "growth")
        bench.ledger.end(probe_id, outcome, right=right, asked=len(known), exchanges=count)
    return rows
