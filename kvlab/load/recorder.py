"""``python -m kvlab.load.recorder``: from stamped bytes to committed rows, and nothing said before.

Standard input brings the job; it then stays open as a lifeline: ``stop`` is passed on to the generator,
and its end, whatever ended the notebook, ends the generator, too. On standard output go lines of JSON, each
about what *is* in the database. It runs at a lower priority than the generator: what waits here
waits after its stamp.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kvlab.endpoints.answer import evidence_of
from kvlab.endpoints.metrics import ServerView
from kvlab.errors import EXIT_FAILED, EXIT_OK
from kvlab.evidence import Evidence, classify
from kvlab.load.batches import COMMIT_S, Batches, Inbox
from kvlab.load.generator import Finished, measurement
from kvlab.load.job import HEADER, Job, Progress, read_exactly
from kvlab.records import Recorded
from kvlab.redact import Redactor
from kvlab.store.database import Database
from kvlab.timing.clock import Anchor

_DECODING = ("max_tokens", "max_completion_tokens", "temperature")
_SHARED_VIEW = ServerView(reason="many requests at once: the counters cannot be split")


class Rows:
    """Makes rows of finished exchanges."""

    def __init__(self, job: Job, base_sha256: str) -> None:
        self.job, self._base = job, base_sha256
        self._redact = Redactor(job.secrets)
        self._anchor = Anchor.take()

    def row(self, done: Finished) -> Recorded:
        """Return one exchange as it is stored."""
        job, labels = self.job, self.job.labels
        measured = measurement(job, done)
        measured = measured.redacted(self._redact)
        evidence = Evidence()
        if measured.generation is not None:
            evidence = labels.judged(
                evidence_of(measured, asked=job.body.get("model"), aliases=labels.aliases)
            )
        decoding = {key: job.body[key] for key in _DECODING if key in job.body}
        messages = done.messages or [job.workload.question(done.item)]
        unix_ns = done.transfer.sent_ns + self._anchor.unix_ns - self._anchor.perf_ns
        return Recorded(
            request_id=job.request_id(done.item, done.attempt),
            arm=f"{job.arm}/{done.item:06d}",
            attempt=done.attempt,
            prompt=job.workload.stored(done.item, messages, self._base),
            decoding=decoding,
            target_tokens=None,
            sent_utc=datetime.fromtimestamp(unix_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
            measurement=measured,
            server=_SHARED_VIEW,
            evidence=evidence,
            label=classify(evidence, labels.law, labels.shared_tokens, labels.prefix_tokens),
            shared_tokens=labels.shared_tokens,
            item=done.item,
            final=done.final,
            due_ns=done.due_ns,
        )


class Recorder:
    """One job under way: a thread takes what the generator gives, this one commits it."""

    def __init__(self, job: Job, progress: Progress) -> None:
        self.job = job
        self._arrived = Inbox(job.backlog_bytes)
        self._done = len(progress.final)
        self._failed = 0
        self._retried = 0
        self._began = time.monotonic()
        self._at_start = self._done
        command = [sys.executable, "-m", "kvlab.load.generator"]
        self._generator = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        with suppress(OSError):
            os.nice(10)
        self._to_generator().write(job.message() + progress.message())
        self._to_generator().flush()

    def run(self) -> int:
        """Record until the generator ends. Returns the exit code."""
        threading.Thread(target=self._take, daemon=True).start()
        threading.Thread(target=self._relay_stop, daemon=True).start()
        batches = Batches(self._arrived)
        with Database(Path(self.job.database)) as database:
            database.join_session(self.job.session_id)
            workload = self.job.workload
            with database.transaction():
                base = database.add_prompt({"marker": workload.marker, "text": workload.text})
            rows = Rows(self.job, base)
            say(state="started", generator_pid=self._generator.pid, done=self._done)
            while (batch := batches.next()) is not None:
                for made in _in_time(batch, rows.row):
                    database.record_items(self.job.run_id, self.job.trial_id, made)
                    self._report(made)
        last_report = batches.last_report
        code = self._generator.wait()
        died = None if code == 0 and last_report is not None else f"the generator ended with {code}"
        say(
            state="ended",
            done=self._done,
            failed=self._failed,
            retried=self._retried,
            generator=last_report,
            died=died,
        )
        return EXIT_OK if died is None else EXIT_FAILED

    def _take(self) -> None:
        """Take messages until the pipe ends; a torn last one is no message."""
        source = self._generator.stdout
        assert source is not None  # noqa: S101 - PIPE, for the type checker
        with suppress(EOFError):
            while True:
                (length,) = HEADER.unpack(read_exactly(source.fileno(), HEADER.size))
                # Only our own child writes here.
                self._arrived.put(pickle.loads(read_exactly(source.fileno(), length)), length)  # noqa: S301
        self._arrived.put(None, 0)

    def _relay_stop(self) -> None:
        """Pass ``stop`` on; and the end of the lifeline, whoever held it."""
        while data := os.read(0, 4096):
            with suppress(OSError):
                self._to_generator().write(data)
                self._to_generator().flush()
        self._generator.kill()

    def _report(self, made: list[Recorded]) -> None:
        """Say what is committed, and how fast it goes."""
        self._done += sum(bool(row.final) for row in made)
        self._failed += sum(bool(row.final) and not row.ok for row in made)
        self._retried += sum(not row.final for row in made)
        rate = (self._done - self._at_start) / max(1e-9, time.monotonic() - self._began)
        left = self.job.items - self._done
        eta_s = left / rate if rate > 0 else None
        say(
            state="running", done=self._done, of=self.job.items, failed=self._failed, retried=self._retried,
            rate_per_s=round(rate, 3), eta_s=None if eta_s is None else round(eta_s, 1),
        )  # fmt: skip

    def _to_generator(self) -> Any:  # noqa: ANN401 - a pipe
        assert self._generator.stdin is not None  # noqa: S101 - PIPE, for the type checker
        return self._generator.stdin


def _in_time(batch: list[Finished], row: Callable[[Finished], Recorded]) -> Iterator[list[Recorded]]:
    """Yield the rows of a batch in parts, none of which takes long: huge answers take a second each to read."""
    made: list[Recorded] = []
    since = time.monotonic()
    for done in batch:
        made.append(row(done))
        if time.monotonic() - since > COMMIT_S:
            yield made
            made, since = [], time.monotonic()
    if made:
        yield made


def say(**what: Any) -> None:  # noqa: ANN401 - JSON
    """Write one line to the notebook; where nobody listens any more, to nobody."""
    with suppress(OSError):
        print(json.dumps(what), flush=True)


def main() -> int:
    """Do the job on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the notebook's; it says stop
    job, progress = Job.read(0), Progress.read(0)
    return Recorder(job, progress).run()


if __name__ == "__main__":
    sys.exit(main())
