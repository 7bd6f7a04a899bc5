"""The parent's side of the child that may die: what is tried is written down first, and the run survives."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvlab.endpoints.metrics import ServerView
from kvlab.errors import InputError, KvlabError
from kvlab.evidence import Evidence, classify
from kvlab.experiment import Measuring
from kvlab.experiments.context_limit_probe.bench import Bench
from kvlab.experiments.context_limit_probe.ledger import Probe
from kvlab.experiments.context_limit_probe.outcomes import WORDS, ProbeOutcome
from kvlab.experiments.context_limit_probe.search import bracket, tolerance_tokens
from kvlab.records import Recorded, Trial
from kvlab.taxonomy import ErrorType
from kvlab.timing.clock import now_ns
from kvlab.timing.request import Failure, Measurement
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation
from kvlab.vram import ProcessTree
from kvlab.vram.kv_bytes import kv_layout
from kvlab.vram.mortal_process import Child

MIB = 2**20
_OUTCOMES = {
    "held": ProbeOutcome.HELD,
    "out_of_memory": ProbeOutcome.OUT_OF_MEMORY,
    "timeout": ProbeOutcome.TIMEOUT,
    "died": ProbeOutcome.CHILD_DIED,
}


def grow_child(bench: Bench, trial: Trial) -> Measuring:
    """Lengthen a child's context chunk by chunk until it fails, or is as long as was asked for."""
    step, most = bench.params.chunk_tokens, bench.params.in_process_tokens
    stop = forbidden(bench.ledger.probes(trial.planned["dtype"]), bench.params.headroom_mib * MIB)
    sizes = [size for size in range(step, most + 1, step) if stop is None or size < stop]
    return (yield from _try(bench, trial, sizes, "growth"))


def cut_child(bench: Bench, trial: Trial) -> Measuring:
    """Try one length between what a child held and what it died of, in a new child."""
    found = bracket(bench.ledger.probes(trial.planned["dtype"]))
    tolerance = tolerance_tokens(found.low, bench.params, bench.identity)
    sizes = []
    if found.failed is not None and found.failed.tokens - found.low > tolerance:
        sizes = [(found.low + found.failed.tokens) // 2]
    return (yield from _try(bench, trial, sizes, "bisection"))


def forbidden(probes: Sequence[Probe], headroom_bytes: int) -> int | None:
    """Return the smallest size that must not be tried again; ``None``: there is none.

    Whatever failed is not repeated. Nor is what was being tried when the run ended, unless less than
    half of the cap was in use just before: then it was not this probe that ended it. Twice at one size
    it was, whatever the cap: a container may have a lower limit than anybody can see.
    """
    ended = Counter(probe.tokens for probe in probes if probe.outcome is ProbeOutcome.RUN_ENDED)
    sizes = [tokens for tokens, times in ended.items() if times > 1]
    for index, probe in enumerate(probes):
        if probe.outcome in (None, ProbeOutcome.HELD, ProbeOutcome.COULD_NOT_LOAD):
            continue
        before = probes[index - 1] if index else None
        used = before.detail.get("grown_bytes") if before is not None and before.held else None
        first = before is None or before.trial_id != probe.trial_id or not before.held
        harmless = first or (used is not None and used < headroom_bytes / 2)
        if probe.outcome is not ProbeOutcome.RUN_ENDED or not harmless:
            sizes.append(probe.tokens)
    return min(sizes, default=None)


def model_source(bench: Bench) -> str | None:
    """Return what a child can load; ``None``: the endpoint's weights are elsewhere, or this is no Linux."""
    if not sys.platform.startswith("linux"):  # its cap and its memory are read from /proc
        return None
    embedded = bench.engine.connection.embedded
    if bench.params.in_process_model is not None:
        named = bench.params.in_process_model
        return str(Path(named).expanduser().resolve()) if named[0] in "/.~" else named
    return None if embedded is None else str(embedded.model.source)


def _try(bench: Bench, trial: Trial, sizes: Sequence[int], why: str) -> Measuring:
    source = model_source(bench)
    if source is None or not sizes:
        return "not needed"
    dtype, params = str(trial.planned["dtype"]), bench.params
    job = {
        "source": source,
        "dtype": dtype,
        "chunk_tokens": params.chunk_tokens,
        "headroom_bytes": params.headroom_mib * MIB,
        "seed": params.text_seed,
    }
    bench.session.note(f"loading the model in a child process, in {dtype}")
    loading = bench.ledger.begin(trial.trial_id, dtype, 0, "loading")
    child = Child(job)
    try:
        with bench.monitor.also(ProcessTree(child.pid, prefix="child")):
            try:
                ready = child.wait_until_ready()
            except KvlabError as error:
                # The run goes on, and says that nothing was measured.
                bench.ledger.end(loading, ProbeOutcome.COULD_NOT_LOAD, message=str(error))
                kind = (
                    ErrorType.OUT_OF_MEMORY if "memory" in str(error).lower() else ErrorType.UNKNOWN_FAILURE
                )
                row = _Try(bench, trial, job).recorded(0, 0, Failure(kind, str(error)))
            else:
                bench.ledger.withdraw(loading)
                row = _drive(_Try(bench, trial, job), child, sizes, why, ready)
    finally:
        child.close()
    yield row
    failure = row.measurement.failure
    return f"{row.evidence.prompt_tokens} tokens" if failure is None else failure.message[:120]


@dataclass
class _Try:
    """One child's growth, as one request on record."""

    bench: Bench
    trial: Trial
    job: dict[str, Any]

    def __post_init__(self) -> None:
        self.sent_utc, self.sent_ns = datetime.now(UTC).isoformat(timespec="milliseconds"), now_ns()

    def recorded(
        self, held: int, target: int, failure: Failure | None, *, expected: bool = False
    ) -> Recorded:
        usage = {"prompt_tokens": held, "completion_tokens": 0}
        generation = Generation(text="", usage=usage, ended=True, finish_reason="planned length")
        evidence = Evidence() if failure else Evidence(prompt_tokens=held)
        return Recorded(
            request_id=self.bench.session.request_id(self.trial, "child"),
            arm="child",
            attempt=self.bench.session.attempt,
            prompt={"random_token_ids": {"seed": self.job["seed"], "tokens": target}},
            decoding={
                "max_tokens": 0,
                "dtype": self.job["dtype"],
                "headroom_bytes": self.job["headroom_bytes"],
            },
            target_tokens=target,
            sent_utc=self.sent_utc,
            measurement=Measurement(
                Stamps(sent_ns=self.sent_ns, done_ns=now_ns()), None if failure else generation, failure
            ),
            server=ServerView(reason="no server: a child process"),
            evidence=evidence,
            label=classify(evidence, None),
            expected=expected,
        )


def _drive(attempt: _Try, child: Child, sizes: Sequence[int], why: str, ready: dict[str, Any]) -> Recorded:
    """Lengthen a loaded child's context, size by size, to its end."""
    ledger, dtype = attempt.bench.ledger, str(attempt.job["dtype"])
    facts = {"device": ready.get("device", "cpu"), **theory(ready.get("config") or {}, dtype)}
    held, loaded, last_line_s = 0, _held_bytes(ready), time.monotonic()
    for asked in sizes:
        probe_id = ledger.begin(attempt.trial.trial_id, dtype, asked, why)
        event = child.grow(asked)
        outcome = _OUTCOMES[event["event"]]
        detail = {key: value for key, value in event.items() if key not in ("event", "tokens")}
        if outcome is ProbeOutcome.HELD:
            detail["grown_bytes"] = _held_bytes(event) - loaded
        ledger.end(probe_id, outcome, loaded_bytes=loaded, **facts, **detail)
        if outcome is not ProbeOutcome.HELD:
            text = f"{WORDS[outcome]} at {asked} tokens, after {held}: {event['message']}"
            kind = ErrorType.TIMEOUT if outcome is ProbeOutcome.TIMEOUT else ErrorType.ENGINE_ERROR
            return attempt.recorded(held, sizes[-1], Failure(kind, text), expected=True)
        held = asked
        if time.monotonic() - last_line_s > 5:
            attempt.bench.session.note(
                f"{dtype}: {held:,} tokens held, {detail['grown_bytes'] / MIB:.0f} MiB"
            )
            last_line_s = time.monotonic()
    return attempt.recorded(held, sizes[-1], None)


def _held_bytes(event: dict[str, Any]) -> int:
    return int(event.get("held_bytes", event["rss_bytes"]))


def theory(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return what a model's configuration says of its cache: the layout, or why that is not known."""
    try:
        layout = kv_layout(config)
    except InputError as error:
        return {"layout": f"unknown layout ({error})"}
    step = layout.step_bytes(dtype)
    return {"theory_bytes_per_token": step, "layout": layout.describe(), "kv_layout": asdict(layout)}
