"""The catalogue of faults: through each transport alone, and through whole runs that store what came of them."""

from __future__ import annotations

import contextlib
import io
import os
import sqlite3
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from benchmarks.servers.catalogue import FAULTS, FaultServer
from benchmarks.servers.process import FakeServer
from benchmarks.torture.counts import Counts
from benchmarks.torture.faulty_server import FaultyServer
from benchmarks.torture.ledger import runs_of
from benchmarks.torture.place import KEY_TEXT, HangError, count_canary, count_left, place, within
from kvlab.errors import KvlabError
from kvlab.redact import Redactor
from kvlab.taxonomy import ErrorType
from kvlab.timing.client import Client
from kvlab.timing.pump import Exchange, Pump
from kvlab.timing.request import Measurement, Target, interpret

TIMEOUT_S = 1.5
#: Beyond the deadline: reading what came, and a busy machine.
SLACK_S = 8.0
BODY = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": True, "max_tokens": 4}
_TOGETHER = 48
#: The same for whole runs: what never ends must meet the bytes before the deadline, as the catalogue says.
_BOUNDS = {"REQUEST_TIMEOUT_S": str(TIMEOUT_S), "RESPONSE_MAX_MIB": "1"}
_redact = Redactor([KEY_TEXT])


def chosen(*, quick: bool) -> list[str]:
    """Return the names of the faults to try."""
    return list(FAULTS)[::8] if quick else list(FAULTS)


def transports(names: list[str]) -> list[Counts]:
    """Try each fault through the measuring client and through the generator's pump."""
    with FaultServer(FAULTS) as server:
        return [_client(server.url, names), _pump(server.url, names)]


def _target(url: str) -> Target:
    return Target(url, {"Authorization": f"Bearer {KEY_TEXT}"}, TIMEOUT_S, max_bytes=2**20)


def _look(counts: Counts, name: str, measured: Measurement, seconds: float) -> None:
    """Hold one outcome against what the catalogue says it must be."""
    counts.tried += 1
    fault = FAULTS[name]
    kind = "ok" if measured.failure is None else str(measured.failure.error_type)
    said = "" if measured.failure is None else measured.failure.message
    text = measured.generation.text if measured.failure is None and measured.generation else said
    # Of what has no end, a busy machine comes to the deadline before the bound on bytes: either one is right.
    either = fault.says == "MiB" and kind == ErrorType.TIMEOUT
    wrong, unsaid = not either and kind != fault.want, not either and fault.says not in text
    counts.harm("untrue", f"{name} is {kind}, not {fault.want}: {said[:200]}", wrong)
    counts.harm("untrue", f"{name} does not say {fault.says!r}: {text[:200]}", unsaid)
    counts.harm("hangs", f"{name} took {seconds:.1f} s", seconds > TIMEOUT_S + SLACK_S)
    counts.harm("tracebacks", f"{name}: {text[:300]}", "Traceback" in text)
    counts.harm("canary", name, repr(measured).count(KEY_TEXT) * len(KEY_TEXT))


def _client(url: str, names: list[str]) -> Counts:
    counts = Counts("faults: measuring client")
    began = time.monotonic()

    def one(name: str) -> tuple[str, Measurement | None, float, str]:
        start = time.monotonic()
        try:
            with Client(_target(url)) as client:
                measured = client.measure(f"/{name}/v1/chat/completions", BODY, name)
                seconds = time.monotonic() - start
                after = client.measure("/good/v1/chat/completions", BODY, "after")
            spoiled = "" if after.failure is None else f"a good answer after it: {after.failure.message}"
            return name, measured.redacted(_redact), seconds, spoiled
        except Exception:
            return name, None, time.monotonic() - start, traceback.format_exc()

    with ThreadPoolExecutor(12) as threads:
        for name, measured, seconds, wrong in threads.map(one, names):
            if measured is None:
                counts.tried += 1
                counts.harm("tracebacks", f"{name}: {wrong[-600:]}")
                continue
            _look(counts, name, measured, seconds)
            counts.harm("untrue", f"{name}: {wrong}", bool(wrong))
    counts.seconds = time.monotonic() - began
    return counts


def _pump(url: str, names: list[str]) -> Counts:
    counts = Counts("faults: load generator's pump")
    began = time.monotonic()
    target, sent, over = _target(url), dict[str, float](), set[str]()

    def finished(exchange: Exchange) -> None:
        name = str(exchange.key)
        over.add(name)
        measured = interpret(target, exchange.reader, exchange.transfer).redacted(_redact)
        if name.startswith("after "):
            counts.harm("untrue", f"{name}: {measured.failure}", measured.failure is not None)
        else:
            _look(counts, name, measured, time.monotonic() - sent[name])

    pump = Pump(target, finished)
    try:
        for at in range(0, len(names), _TOGETHER):
            some = names[at : at + _TOGETHER]
            for paths in ({name: name for name in some}, {f"after {name}": "good" for name in some}):
                for name, path in paths.items():
                    where = f"/{path}/v1/chat/completions"
                    request = target.encode(where, BODY, {"X-Request-Id": name.encode().hex()})
                    sent[name] = time.monotonic()
                    pump.send(Exchange(name, request, 0))
                limit = time.monotonic() + 60
                while pump.in_flight and time.monotonic() < limit:
                    pump.poll(0.05)
    except Exception:
        counts.harm("tracebacks", traceback.format_exc()[-800:])
    never = sent.keys() - over
    counts.harm("hangs", f"never over: {sorted(never)[:5]}", len(never))
    counts.harm("left", f"{pump.held_bytes} bytes held", pump.held_bytes > 0)
    pump.close()
    counts.seconds = time.monotonic() - began
    return counts


def _behind() -> FakeServer:
    """The server of pages and probes. It has no counters: those of struck requests would be waited for."""
    return FakeServer(base_ms=1, itl_ms=1, require_key=KEY_TEXT, metrics=False)


def pairs(names: list[str]) -> Counts:
    """Try each fault in a token sweep, whose report is written of what is left; nothing of the key may be in it."""
    counts = Counts("faults: a whole token sweep")
    began = time.monotonic()
    with (
        _behind() as fake,
        FaultyServer(fake.port, names) as server,
        place(server.base_url) as outputs,
        _quiet() as said,
    ):
        os.environ |= _BOUNDS
        from kvlab import api

        run = api.open("token_sweep", profile="smoke", token_targets=[120], repeats=len(names), manual_sections=20,
                       max_tokens=3, position_controls=0, max_attempts=1, outage_s=0.0)  # fmt: skip
        for trial in run.pending():
            try:
                with within(2 * (TIMEOUT_S + SLACK_S) + 20):
                    run.measure(trial)
            except KvlabError as refused:
                print(f"{trial.trial_id}: {refused}")
            except HangError as late:
                counts.harm("hangs", f"{trial.trial_id}: {late}")
            except Exception:
                counts.harm("tracebacks", f"{trial.trial_id}: {traceback.format_exc()[-800:]}")
        try:
            run.finish()
        except KvlabError as refused:
            print(refused)
        _stored(counts, outputs, server)
        count_canary(counts, outputs, said.getvalue())
        counts.harm("tracebacks", "in the output", said.getvalue().count("Traceback (most recent"))
    counts.seconds = time.monotonic() - began
    return counts


def load(names: list[str]) -> Counts:
    """Try each fault in a whole run of ``kvlab run batch_benchmark``: kernel, generator, recorder, report."""
    counts = Counts("faults: a whole kvlab run under load")
    began = time.monotonic()
    with (
        _behind() as fake,
        FaultyServer(fake.port, names) as server,
        place(server.base_url) as outputs,
    ):
        os.environ |= _BOUNDS
        changes = {"sizes": [len(names)], "strategies": "[shared_prefix]", "prompt_tokens": 100, "max_tokens": 3,
                   "handbook_sections": 10, "concurrency": 24, "max_attempts": 1, "outage_s": 0.0, "outage_limit_s": 10.0}  # fmt: skip
        sets = [word for name, value in changes.items() for word in ("--set", f"{name}={value}")]
        command = [sys.executable, "-m", "kvlab", "run", "batch_benchmark", "--profile", "smoke", *sets]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=240)
            code, text = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as late:
            counts.harm("hangs", f"the run did not end: {str(late.stdout)[-500:]}")
            code, text = 1, str(late.stdout)
        counts.harm("tracebacks", text[-1500:], text.count("Traceback (most recent call last)"))
        counts.harm("untrue", f"exit code {code}: {text[-600:]}", code not in (0, 1))
        count_left(counts, outputs)
        _stored(counts, outputs, server)
        count_canary(counts, outputs, text)
    counts.seconds = time.monotonic() - began
    return counts


def _stored(counts: Counts, outputs: Path, server: FaultyServer) -> None:
    """Hold what the database has of each struck request against the catalogue."""
    (folder,) = runs_of(outputs)
    query = (
        "SELECT r.request_id, f.error_type, f.message FROM requests r LEFT JOIN failures f USING (request_id)"
    )
    with closing(sqlite3.connect(folder / "run.sqlite")) as sql:
        rows = {row[0]: row[1:] for row in sql.execute(query)}
    for request_id, name in server.struck.items():
        counts.tried += 1
        if request_id not in rows:
            counts.harm("lost", f"{name}: {request_id} was sent and is not stored")
            continue
        kind, message = rows[request_id]
        counts.harm("untrue", f"{name} is stored as {kind or 'ok'}, not {FAULTS[name].want}: {message}",
                    (kind or "ok") != FAULTS[name].want)  # fmt: skip
    missing = set(FAULTS) - set(server.struck.values())
    counts.see(faults=len(FAULTS) - len(missing))


@contextlib.contextmanager
def _quiet():
    """Take what is printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        yield said
