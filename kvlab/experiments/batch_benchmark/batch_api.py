"""OpenAI's batch API: upload a JSONL file, create a batch, poll it, download what came of it.

The server takes its time over the whole file, so a request has no time to its first token. Its row holds
when the batch was created and when the batch was seen to be complete.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import httpx

from kvlab.cache_state import Evidence, classify, usage_evidence
from kvlab.experiments.base import Streamed
from kvlab.experiments.batch_benchmark import jobs, stretch
from kvlab.experiments.batch_benchmark.plan import Planned
from kvlab.load import control
from kvlab.load.job import Job
from kvlab.records import Recorded, Trial
from kvlab.serving.metrics import ServerView
from kvlab.taxonomy import ErrorType, from_http_status
from kvlab.timing.clock import now_ns
from kvlab.timing.request import Failure, Measurement
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
    from kvlab.experiments.lab import Lab

NOT_OFFERED = "not offered by this endpoint"
_OVER = {"completed", "failed", "expired", "cancelled"}
_COMMIT_ROWS = 1000
SAY_S = 5.0


@dataclass
class _Batch:
    """A batch job on the server, and the calls that deal with it."""

    http: httpx.Client
    base_url: str

    def offered(self) -> str | None:
        """Return why there is no batch API here; ``None``: there is one."""
        answer = self.http.get(f"{self.base_url}/batches", params={"limit": 1})
        if answer.status_code == 200:
            return None
        return f"{NOT_OFFERED} (GET /v1/batches answers HTTP {answer.status_code})"

    def create(self, lines: Iterator[str]) -> str:
        """Upload requests and start them. Returns the batch's id."""
        data = "".join(lines).encode()
        files = {"file": ("requests.jsonl", data, "application/jsonl")}
        uploaded = self.http.post(
            f"{self.base_url}/files", data={"purpose": "batch"}, files=files, timeout=600
        )
        made = self.http.post(
            f"{self.base_url}/batches",
            json={
                "input_file_id": uploaded.raise_for_status().json()["id"],
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
            },
        )
        return str(made.raise_for_status().json()["id"])

    def look(self, batch_id: str) -> dict[str, Any]:
        """Return how it stands."""
        found: dict[str, Any] = self.http.get(f"{self.base_url}/batches/{batch_id}").raise_for_status().json()
        return found

    def lines(self, file_id: str | None) -> Iterator[dict[str, Any]]:
        """Yield the lines of one of its files."""
        if file_id is None:
            return
        with self.http.stream("GET", f"{self.base_url}/files/{file_id}/content", timeout=600) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if line.strip():
                    yield json.loads(line)


def stream(lab: "Lab[BatchBenchmarkParams]", trial: Trial, attempt: int) -> Streamed:
    """Do what is left of a trial through the batch API; a resume goes on with the batch that it finds."""
    database, item = lab.run.database, Planned(**trial.planned)
    asked = jobs.workload(lab, trial)
    prefix = jobs.prefix_tokens(lab.counter, asked, item.size)
    batch = _Batch(lab.engine.connection.http, lab.engine.connection.target.base_url)
    state = {"prefix_tokens": prefix, **stretch.last_state(database, trial.trial_id)}
    before = stretch.counters(lab.engine.connection, lab.identity)
    number = stretch.begin(database, trial.trial_id, lab.run.session_id, before, state)
    job = jobs.job(lab, trial, attempt, asked, prefix)
    so_far = control.progress(database, job)
    try:
        why = batch.offered()
        if why is not None:
            stretch.end(database, number, why)
            return Streamed(True, why)
        if "batch_id" not in state:
            left = [number for number in range(item.size) if number not in so_far.final]
            state |= {
                "created_ns": now_ns(),
                "created_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
            }
            state["batch_id"] = batch.create(_requests(job, left))
            stretch.keep_state(database, number, state)  # before anything is waited for
        last = _wait(lab, trial, batch, state["batch_id"])
    except httpx.HTTPError as error:
        why = lab.engine.connection.settings.redact(f"{type(error).__name__}: {error}")
        stretch.end(database, number, why)
        return Streamed(False, f"the batch API failed: {why}")
    except BaseException as error:
        stretch.end(database, number, "stopped" if isinstance(error, KeyboardInterrupt) else str(error))
        raise
    done = _store(lab, job, batch, last, state)
    after = stretch.settled(lab.engine.connection, lab.identity, before, done)
    stretch.end(database, number, "done", after)
    return Streamed(True, f"{done:,} requests stored of batch {state['batch_id']} ({last['status']})")


def _requests(job: Job, left: list[int]) -> Iterator[str]:
    for item in left:
        messages = [job.workload.system(item), job.workload.question(item)]
        body = {key: value for key, value in job.body.items() if not key.startswith("stream")}
        body["messages"] = messages
        if job.salted:
            body["cache_salt"] = job.workload.marker_of(item)
        line = {"custom_id": f"{item:06d}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line) + "\n"


def _wait(lab: "Lab[BatchBenchmarkParams]", trial: Trial, batch: _Batch, batch_id: str) -> dict[str, Any]:
    """Poll until the batch is over, or has taken too long: then it is cancelled as far as we care."""
    limit = time.monotonic() + lab.params.batch_limit_s
    said = time.monotonic()
    while (last := batch.look(batch_id))["status"] not in _OVER and time.monotonic() < limit:
        if time.monotonic() - said > SAY_S:
            said = time.monotonic()
            counts = last.get("request_counts") or {}
            lab.note(
                f"{trial.trial_id}: {last['status']}, {counts.get('completed', 0):,} of {counts.get('total', 0):,}"
            )
        time.sleep(lab.params.batch_poll_s)
    return {**last, "seen_ns": now_ns()}


def _store(
    lab: "Lab[BatchBenchmarkParams]", job: Job, batch: _Batch, last: dict[str, Any], state: dict[str, Any]
) -> int:
    """Store one row for each request that has none yet. Returns how many were answered."""
    database = lab.run.database
    with database.transaction():
        base = database.add_prompt({"marker": job.workload.marker, "text": job.workload.text})
    open_ = set(range(job.items)) - control.progress(database, job).final
    answered, rows = 0, list[Recorded]()

    def keep(item: int, answer: dict[str, Any] | None, failure: Failure | None) -> None:
        nonlocal answered
        answered += failure is None
        rows.append(_row(job, item, base, _measurement(answer, failure, last["seen_ns"], state), state))
        open_.discard(item)
        if len(rows) >= _COMMIT_ROWS:
            database.record_items(job.run_id, job.trial_id, rows)
            rows.clear()

    for file_id in (last.get("output_file_id"), last.get("error_file_id")):
        for line in batch.lines(file_id):
            item = int(line["custom_id"])
            if item in open_:
                answer, failure = _read(line, lab.engine.connection.settings.redact)
                keep(item, answer, failure)
    for item in sorted(open_):
        keep(item, None, Failure(ErrorType.TIMEOUT, f"the batch ended as {last['status']} without it"))
    database.record_items(job.run_id, job.trial_id, rows)
    return answered


def _read(line: dict[str, Any], redact: Any) -> tuple[dict[str, Any] | None, Failure | None]:  # noqa: ANN401
    """Return a line's answer, or its failure."""
    response = line.get("response") or {}
    status = int(response.get("status_code") or 0)
    if line.get("error") or status != 200:
        error = line.get("error") or (response.get("body") or {}).get("error") or {}
        message = redact(str(error.get("message", error))[:500])
        kind = from_http_status(status) if status else ErrorType.ENGINE_ERROR
        return None, Failure(kind, message, status or None)
    body: dict[str, Any] = response["body"]
    if not body.get("choices"):
        return None, Failure(ErrorType.EMPTY_OUTPUT, "the answer has no choice", status)
    return body, None


def _measurement(
    answer: dict[str, Any] | None, failure: Failure | None, seen_ns: int, state: dict[str, Any]
) -> Measurement:
    stamps = Stamps(state["created_ns"], done_ns=seen_ns if answer else None)
    if answer is None:
        return Measurement(stamps, None, failure, failure.http_status if failure else None)
    choice = answer["choices"][0]
    text = (choice.get("message") or {}).get("content") or ""
    generation = Generation(
        text=text, finish_reason=choice.get("finish_reason"), usage=answer.get("usage"), ended=True
    )
    return Measurement(stamps, generation, None, 200)


def _row(job: Job, item: int, base: str, measured: Measurement, state: dict[str, Any]) -> Recorded:
    labels, evidence = job.labels, Evidence()
    if measured.generation is not None:
        evidence = Evidence(*usage_evidence(measured.generation.usage))
    return Recorded(
        request_id=job.request_id(item, 1),
        arm=f"{job.arm}/{item:06d}",
        attempt=1,
        prompt=job.workload.stored(item, [job.workload.question(item)], base),
        decoding={key: job.body[key] for key in ("max_tokens", "temperature")},
        target_tokens=None,
        sent_utc=state["created_utc"],
        measurement=measured,
        server=ServerView(reason="the server works on a batch: no request can be told apart"),
        evidence=evidence,
        label=classify(evidence, labels.block_size, labels.shared_tokens, labels.prefix_tokens),
        shared_tokens=labels.shared_tokens,
        item=item,
        final=True,
        due_ns=state["created_ns"],
    )
