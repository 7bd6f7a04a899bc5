"""The parent's side of the child that may die: what is tried is written down first, and the run survives."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvlab.endpoints.metrics import ServerView
from kvlab.errors import InputError, KvlabError
from kvlab.evidence import Evidence, classify
from kvlab.experiments.context_limit_probe.bench import Bench, bench_of
from kvlab.experiments.context_limit_probe.ledger import Probe, bracket
from kvlab.experiments.context_limit_probe.outcomes import WORDS, Outcome
from kvlab.records import Recorded, Trial
from kvlab.taxonomy import ErrorType
from kvlab.timing.clock import now_ns
from kvlab.timing.request import Failure, Measurement
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation
from kvlab.vram import ProcessTree
from kvlab.vram.kv_bytes import kv_layout
from kvlab.vram.mortal_process import Child

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
    from kvlab.session import Lab

MIB = 2**20


def grow_child(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    """Lengthen a child's context chunk by chunk until it fails, or is as long as was asked for."""
    bench, params = bench_of(lab), lab.params
    step, most = params.chunk_tokens, params.in_process_tokens
    stop = forbidden(bench.ledger.probes(trial.planned["dtype"]), params.headroom_mib * MIB)
    sizes = [size for size in range(step, most + 1, step) if stop is None or size < stop]
    return _try(bench, trial, attempt, sizes, "growth")


def cut_child(lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
    """Try one length between what a child held and what it died of, in a new child."""
    bench = bench_of(lab)
    found = bracket(bench.ledger.probes(trial.planned["dtype"]))
    tolerance = lab.params.resolution_tokens or max(bench.identity.block_size or 1, found.low // 100)
    if found.failed is None or found.failed.tokens - found.low <= tolerance:
        return []
    return _try(bench, trial, attempt, [(found.low + found.failed.tokens) // 2], "bisection")


def forbidden(probes: Sequence[Probe], headroom_bytes: int) -> int | None:
    """Return the smallest size that must not be tried again; ``None``: there is none.

    Whatever failed is not repeated. Nor is what was being tried when the run ended, unless less than
    half of the cap was in use just before: then it was not this probe that ended it. Twice at one size
    it was, whatever the cap: a container may have a lower limit than anybody can see.
    """
    ended = Counter(probe.tokens for probe in probes if probe.outcome is Outcome.RUN_ENDED)
    sizes = [tokens for tokens, times in ended.items() if times > 1]
    for index, probe in enumerate(probes):
        if probe.outcome in (None, Outcome.HELD, Outcome.COULD_NOT_LOAD):
            continue
        before = probes[index - 1] if index else None
        used = before.detail.get("grown_bytes") if before is not None and before.held else None
        first = before is None or before.trial_id != probe.trial_id or not before.held
        harmless = first or (used is not None and used < headroom_bytes / 2)
        if probe.outcome is not Outcome.RUN_ENDED or not harmless:
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


def _try(bench: Bench, trial: Trial, attempt: int, sizes: Sequence[int], why: str) -> list[Recorded]:
    source = model_source(bench)
    if source is None or not sizes:
        return []
    dtype, params = str(trial.planned["dtype"]), bench.params
    job = {
        "source": source,
        "dtype": dtype,
        "chunk_tokens": params.chunk_tokens,
        "headroom_bytes": params.headroom_mib * MIB,
        "seed": params.text_seed,
    }
    print(f"loading the model in a child process, in {dtype}", flush=True)
    loading = bench.ledger.begin(trial.trial_id, dtype, 0, "loading")
    child = Child(job)
    try:
        with bench.monitor.also(ProcessTree(child.pid, prefix="child")):
            try:
                ready = child.wait_until_ready()
            except KvlabError as error:
                return [_not_loaded(bench, trial, attempt, job, loading, str(error))]
            bench.ledger.withdraw(loading)
            return [_drive(bench, trial, attempt, child, sizes, why, ready, job)]
    finally:
        child.close()


def _not_loaded(
    bench: Bench, trial: Trial, attempt: int, job: dict[str, Any], loading: int, message: str
) -> Recorded:
    """Record a child that did not get so far; the run goes on, and says that nothing was measured."""
    bench.ledger.end(loading, Outcome.COULD_NOT_LOAD, message=message)
    kind = ErrorType.OUT_OF_MEMORY if "memory" in message.lower() else ErrorType.UNKNOWN_FAILURE
    stamp, now = datetime.now(UTC).isoformat(timespec="milliseconds"), now_ns()
    return _recorded(bench, trial, attempt, job, stamp, now, 0, 0, Failure(kind, message))


def _drive(
    bench: Bench,
    trial: Trial,
    attempt: int,
    child: Child,
    sizes: Sequence[int],
    why: str,
    ready: dict[str, Any],
    job: dict[str, Any],
) -> Recorded:
    dtype, held, event, asked = str(job["dtype"]), 0, dict[str, Any](), 0
    facts = {"device": ready.get("device", "cpu"), **theory(ready.get("config") or {}, dtype)}
    loaded = _held(ready)
    sent_utc, sent_ns = datetime.now(UTC).isoformat(timespec="milliseconds"), now_ns()
    said = time.monotonic()
    for asked in sizes:
        probe_id = bench.ledger.begin(trial.trial_id, dtype, asked, why)
        event = child.grow(asked)
        outcome = _OUTCOMES[event["event"]]
        detail = {key: value for key, value in event.items() if key not in ("event", "tokens")}
        if outcome is Outcome.HELD:
            detail["grown_bytes"] = _held(event) - loaded
        bench.ledger.end(probe_id, outcome, loaded_bytes=loaded, **facts, **detail)
        if outcome is not Outcome.HELD:
            break
        held = asked
        if time.monotonic() - said > 5:
            print(f"{dtype}: {held:,} tokens held, {detail['grown_bytes'] / MIB:.0f} MiB", flush=True)
            said = time.monotonic()
    failure = None
    if event["event"] != "held":
        text = f"{WORDS[_OUTCOMES[event['event']]]} at {asked} tokens, after {held}: {event['message']}"
        kind = ErrorType.TIMEOUT if event["event"] == "timeout" else ErrorType.ENGINE_ERROR
        failure = Failure(kind, text)
    row = _recorded(bench, trial, attempt, job, sent_utc, sent_ns, held, sizes[-1], failure)
    if failure is not None:
        bench.results.add(row.request_id)
    return row


def _held(event: dict[str, Any]) -> int:
    return int(event.get("held_bytes", event["rss_bytes"]))


_OUTCOMES = {
    "held": Outcome.HELD,
    "out_of_memory": Outcome.OUT_OF_MEMORY,
    "timeout": Outcome.TIMEOUT,
    "died": Outcome.CHILD_DIED,
}


def _recorded(
    bench: Bench,
    trial: Trial,
    attempt: int,
    job: dict[str, Any],
    sent_utc: str,
    sent_ns: int,
    held: int,
    target: int,
    failure: Failure | None,
) -> Recorded:
    usage = {"prompt_tokens": held, "completion_tokens": 0}
    generation = (
        None if failure else Generation(text="", usage=usage, ended=True, finish_reason="planned length")
    )
    evidence = Evidence() if failure else Evidence(prompt_tokens=held)
    return Recorded(
        request_id=f"{trial.trial_id}.s{bench.run.session_id}.a{attempt}",
        arm="child",
        attempt=attempt,
        prompt={"random_token_ids": {"seed": job["seed"], "tokens": target}},
        decoding={"max_tokens": 0, "dtype": job["dtype"], "headroom_bytes": job["headroom_bytes"]},
        target_tokens=target,
        sent_utc=sent_utc,
        measurement=Measurement(Stamps(sent_ns=sent_ns, done_ns=now_ns()), generation, failure),
        server=ServerView(reason="no server: a child process"),
        evidence=evidence,
        label=classify(evidence, None),
    )


def theory(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return what a model's configuration says of its cache: the layout, or why that is not known."""
    try:
        layout = kv_layout(config)
    except InputError as error:
        return {"layout": f"unknown layout ({error})"}
    step = layout.step_bytes(dtype)
    return {"theory_bytes_per_token": step, "layout": layout.describe(), "kv_layout": asdict(layout)}
