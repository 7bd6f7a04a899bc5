"""OpenAI's batch API: upload a JSONL file, create a batch, poll it, download what came of it.

The server takes its time over the whole file, so a request has no time to its first token. Its row holds
when the batch was created and when the batch was seen to be complete.
"""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

from kvlab.endpoints.answer import evidence_of
from kvlab.endpoints.batch_api import MAX_BYTES, MAX_LINES, OVER, Batch, message_of
from kvlab.endpoints.metrics import ServerView
from kvlab.evidence import Evidence, classify
from kvlab.experiment import UnfinishedError
from kvlab.experiments.batch_benchmark import jobs
from kvlab.experiments.batch_benchmark.trials import Planned
from kvlab.load import control, stretch
from kvlab.load.job import Job
from kvlab.records import Recorded, Trial
from kvlab.taxonomy import ErrorType, from_http_status
from kvlab.timing.clock import now_ns
from kvlab.timing.request import Failure, Measurement
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation, dig

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
    from kvlab.session import Session

NOT_OFFERED = "not offered by this endpoint"
_COMMIT_ROWS = 1000
SAY_S = 5.0


def send(session: "Session[BatchBenchmarkParams]", trial: Trial) -> str:
    """Do what is left of a trial through the batch API; a resume goes on with the batch that it finds.

    Returns:
        One line about it.

    Raises:
        UnfinishedError: The API failed.
    """
    database, item = session.database, Planned(**trial.planned)
    asked = jobs.workload(session, trial)
    known = jobs.prefix_state(session.counter, asked, item.size)
    connection = session.engine.connection
    redact = connection.settings.redactor
    batch = Batch(connection.http, connection.target.base_url, session.params.outage_limit_s, redact)
    state = {**known, **stretch.last_state(database, trial.trial_id)}
    before = stretch.counters(connection, session.identity)
    number = stretch.begin(database, trial.trial_id, session.run.session_id, before, state)
    job = jobs.job(session, trial, asked, known["prefix_tokens"])
    so_far = control.progress(database, job)
    try:
        if "batch_ids" not in state and (absent := batch.absent()) is not None:
            why = f"{NOT_OFFERED} (GET /v1/batches answers {absent})"
            stretch.end(database, number, why)
            return why
        left = [item_number for item_number in range(item.size) if item_number not in so_far.final]
        _create(batch, job, left, state, lambda: stretch.keep_state(database, number, state))
        last = [_wait(session, trial, batch, name) for name in state["batch_ids"]]
        done = _store(session, job, batch, last, state)
    except (httpx.HTTPError, ValueError) as error:
        why = redact(f"{type(error).__name__}: {error}")[:500]  # httpx has words of its own
        stretch.end(database, number, why)
        raise UnfinishedError(f"the batch API failed: {why}") from None
    except BaseException as error:
        why = "stopped" if isinstance(error, KeyboardInterrupt) else redact(str(error))[:500]
        stretch.end(database, number, why)
        raise
    after = stretch.counters_after(connection, session.identity, before, done)
    stretch.end(database, number, "done", after)
    ends = ", ".join(
        f"{name} ({end['status']}{': ' + message if (message := message_of(end)[:500]) else ''})"
        for name, end in zip(state["batch_ids"], last, strict=True)
    )
    return f"{done:,} requests stored of batch {ends}"


def _create(batch: Batch, job: Job, left: list[int], state: dict[str, Any], keep: Callable[[], None]) -> None:
    """Send what is not sent yet, in as many files as it takes; each is noted before the next, and any wait."""
    state.setdefault("batch_ids", [])
    while len(rest := left[state.get("sent_items", 0) :]):
        state.setdefault("created_ns", now_ns())
        state.setdefault("created_utc", datetime.now(UTC).isoformat(timespec="milliseconds"))
        lines = list(_requests(job, rest[:MAX_LINES]))
        while len(lines) > 1 and sum(map(len, lines)) > MAX_BYTES // 4:  # up to four bytes a character
            lines = lines[: len(lines) // 2]
        state["batch_ids"].append(batch.create(lines))
        state["sent_items"] = state.get("sent_items", 0) + len(lines)
        keep()


def _requests(job: Job, left: list[int]) -> Iterator[str]:
    for item in left:
        messages = [job.workload.system(item), job.workload.question(item)]
        body = {key: value for key, value in job.body.items() if not key.startswith("stream")}
        body["messages"] = messages
        if job.salted:
            body["cache_salt"] = job.workload.marker_of(item)
        line = {"custom_id": f"{item:06d}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line) + "\n"


def _wait(
    session: "Session[BatchBenchmarkParams]", trial: Trial, batch: Batch, batch_id: str
) -> dict[str, Any]:
    """Poll until the batch is over, or has taken too long: then it is cancelled as far as we care."""
    limit = time.monotonic() + session.params.batch_limit_s
    last_line_s = time.monotonic()
    while (last := batch.look(batch_id))["status"] not in OVER and time.monotonic() < limit:
        if time.monotonic() - last_line_s > SAY_S:
            last_line_s = time.monotonic()
            counts = last.get("request_counts")
            counts = counts if isinstance(counts, dict) else {}
            session.note(
                f"{trial.trial_id}: {last['status'][:80]}, {counts.get('completed', 0)} of {counts.get('total', 0)}"
            )
        time.sleep(session.params.batch_poll_s)
    return {**last, "seen_ns": now_ns()}


def _store(
    session: "Session[BatchBenchmarkParams]",
    job: Job,
    batch: Batch,
    last: list[dict[str, Any]],
    state: dict[str, Any],
) -> int:
    """Store one row for each request that has none yet. Returns how many were answered."""
    database = session.database
    with database.transaction():
        base = database.add_prompt({"marker": job.workload.marker, "text": job.workload.text})
    open_ = set(range(job.items)) - control.progress(database, job).final
    answered, rows = 0, list[Recorded]()

    redactor = session.engine.connection.settings.redactor

    def keep(item: int, answer: Generation | Failure) -> None:
        nonlocal answered
        answered += isinstance(answer, Generation)
        measured = _measurement(answer, last[-1]["seen_ns"], state).redacted(redactor)
        rows.append(_row(job, item, base, measured, state))
        open_.discard(item)
        if len(rows) >= _COMMIT_ROWS:
            database.record_items(job.run_id, job.trial_id, rows)
            rows.clear()

    field_path = session.engine.connection.target.field_path
    for end in last:
        for file_id in (end.get("output_file_id"), end.get("error_file_id")):
            for line in batch.lines(file_id if isinstance(file_id, str) else None):
                item = _item(line)
                if item in open_:
                    keep(item, _read(line, field_path))
    missing = _missing(last)
    for item in sorted(open_):
        keep(item, missing)
    database.record_items(job.run_id, job.trial_id, rows)
    return answered


def _missing(last: list[dict[str, Any]]) -> Failure:
    """Return why a request has no line: what the server says of the batch, or how it ended."""
    message = "; ".join(filter(None, (message_of(end) for end in last)))
    statuses = sorted({end["status"] for end in last})
    how = f"the batch ended as {', '.join(statuses)} without it" + (f": {message}" if message else "")
    late = not message and any(status not in OVER or status == "expired" for status in statuses)
    return Failure(ErrorType.TIMEOUT if late else ErrorType.ENGINE_ERROR, how)


def _item(line: Any) -> int:  # noqa: ANN401 - JSON
    """Return which request a line answers; -1: none of ours."""
    name = line.get("custom_id") if isinstance(line, dict) else None
    return int(name) if isinstance(name, str) and name.isascii() and name.isdecimal() else -1


def _read(line: dict[str, Any], field_path: str | None = None) -> Generation | Failure:
    """Return what a line says; ``field_path``: where the server's own cache evidence stands in a body."""
    status = None
    try:
        response = line.get("response") or {}
        status = response.get("status_code")
        if line.get("error") or status != 200:
            error = line.get("error") or (response.get("body") or {}).get("error") or {}
            message = error.get("message", error) if isinstance(error, dict) else error
            kind = from_http_status(int(status)) if status else ErrorType.ENGINE_ERROR
            return Failure(kind, str(message), status or None)
        body = response["body"]
        if not body.get("choices"):
            return Failure(ErrorType.EMPTY_OUTPUT, "the answer has no choice", status)
        choice = body["choices"][0]
        text = (choice.get("message") or {}).get("content") or ""
        finish, usage = choice.get("finish_reason"), body.get("usage")
        if not (isinstance(text, str) and isinstance(finish, str | None) and isinstance(usage, dict | None)):
            raise TypeError("content, finish_reason or usage is of a wrong kind")
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        why = f"the line is malformed: {error}"
        return Failure(ErrorType.ENGINE_ERROR, why, status if isinstance(status, int) else None)
    field_value = dig(body, field_path) if field_path else None
    model = body.get("model") if isinstance(body.get("model"), str) else None
    return Generation(
        text=text, finish_reason=finish, usage=usage, field_value=field_value, model=model, ended=True
    )


def _measurement(answer: Generation | Failure, seen_ns: int, state: dict[str, Any]) -> Measurement:
    if isinstance(answer, Failure):
        return Measurement(Stamps(state["created_ns"]), None, answer, answer.http_status)
    return Measurement(Stamps(state["created_ns"], done_ns=seen_ns), answer, None, 200)


def _row(job: Job, item: int, base: str, measured: Measurement, state: dict[str, Any]) -> Recorded:
    labels, evidence = job.labels, Evidence()
    if measured.generation is not None:
        evidence = labels.judged(evidence_of(measured, asked=job.body.get("model"), aliases=labels.aliases))
    return Recorded(
        request_id=job.request_id(item, 1),
        arm=f"{job.arm}/{item:06d}",
        attempt=1,
        prompt=job.workload.stored(item, [job.workload.question(item)], base),
        decoding={
            key: job.body[key]
            for key in ("max_tokens", "max_completion_tokens", "temperature")
            if key in job.body
        },
        target_tokens=None,
        sent_utc=state["created_utc"],
        measurement=measured,
        server=ServerView(reason="the server works on a batch: no request can be told apart"),
        evidence=evidence,
        label=classify(evidence, labels.law, labels.shared_tokens, labels.prefix_tokens),
        shared_tokens=labels.shared_tokens,
        item=item,
        final=True,
        due_ns=state["created_ns"],
    )
