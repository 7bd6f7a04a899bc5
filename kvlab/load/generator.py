"""``python -m kvlab.load.generator``: send, read, stamp, and hand the bytes on. Nothing else.

Standard input brings the job and what of it is done. Standard input then stays open as a
lifeline: ``stop`` ends the sending and drains what is in flight; its end is the recorder's, and
everything stops at once. On standard output go length-prefixed pickles of `Finished` to the recorder.
"""

import contextlib
import gc
import os
import pickle
import re
import selectors
import signal
import time
from array import array
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

from kvlab.load.job import HEADER, Job, Progress, allow_all_descriptors
from kvlab.load.scheduler import Outgoing, Scheduler
from kvlab.prompts.batch import Message
from kvlab.taxonomy import RETRYABLE
from kvlab.timing.clock import now_ns
from kvlab.timing.pump import Exchange, Pump
from kvlab.timing.request import Measurement, Transfer, interpret
from kvlab.timing.response import ResponseReader

FLUSH_NS, FLUSH_BYTES = 20_000_000, 4 * 2**20
#: A stream in which every event is an object and the last one says so: no reason to look closer, …
_PLAIN = re.compile(rb"(?:data: \{[^\n]*\}\n\n|: [^\n]*\n\n)+data: \[DONE\]\n\n\Z")
#: … unless one of these stands in it: an error object, or a finish reason that is none of the model's.
_ODD = (b'"error', b'"abort', b'"cancelled', b'"insufficient')


class Finished(NamedTuple):
    """One sending that is over, for the recorder."""

    item: int
    attempt: int
    final: bool
    due_ns: int
    reader: ResponseReader
    transfer: Transfer
    messages: list[Message] | None  # of conversations; else the item alone tells them


def measurement(job: Job, done: Finished) -> Measurement:
    """Read what came of one exchange in full."""
    return interpret(job.target, done.reader, done.transfer)


class Generator:
    """One job under way."""

    def __init__(self, job: Job, progress: Progress) -> None:
        self.job = job
        self.scheduler = Scheduler(job, progress)
        self.pump = Pump(job.target, self._finished)
        self._talks = job.workload.kind == "conversation"
        self._done: list[Finished] = []
        self._done_bytes = 0
        self._flushed_ns = 0
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = self._backlog_peak = 0
        self._passes = array("Q")

    def run(self) -> dict[str, Any]:
        """Send everything, drain, and return what the generator says of itself."""
        self.pump.watch(0, selectors.EVENT_READ, self._read_command)
        os.set_blocking(1, False)
        arrivals = self.job.arrivals
        places = arrivals.concurrency if arrivals.is_closed else 0
        self.pump.open_ahead(min(places, self.job.items, self.job.max_connections or places))
        self.scheduler.build_ahead()
        gc.collect()
        gc.freeze()
        gc.disable()  # a collection stops the clock-watching for milliseconds; there are no cycles
        start_ns, start_cpu = now_ns(), time.process_time()
        self.scheduler.start(start_ns)
        while not (self.scheduler.over and self.pump.in_flight == 0):
            self._step()
        wall_s = (now_ns() - start_ns) / 1e9
        says = self._says(wall_s, time.process_time() - start_cpu)
        self._flush()
        self._write_out(pickle.dumps(says))
        os.set_blocking(1, True)
        while self._backlog:
            self._push()
        return says

    def _step(self) -> None:
        t_ns = now_ns()
        while not self._full:
            outgoing = self.scheduler.next(t_ns)
            if outgoing is None:
                break
            self.pump.send(Exchange(outgoing, outgoing.request, outgoing.due_ns))
        self.scheduler.build_ahead(8)
        before_ns = now_ns()
        # When full, what is due cannot be sent before something else has happened.
        due_s = 1.0 if self._full else self.scheduler.wait_s(before_ns)
        wait_s = min(due_s, 0.02 if self._done else 1.0)
        self.pump.poll(wait_s)
        self._passes.append(self.pump.pass_ns)
        enough = len(self._done) >= 64 or self._done_bytes > FLUSH_BYTES
        if self._done and (enough or now_ns() - self._flushed_ns > FLUSH_NS):
            self._flush()

    @property
    def _full(self) -> bool:
        """Whether nothing may be sent now: all connections are taken, or the recorder is behind."""
        most = self.job.max_connections
        taken = most is not None and self.pump.in_flight >= most
        return taken or self._backlog_bytes >= self.job.backlog_bytes

    def _read_command(self) -> None:
        if not os.read(0, 4096):
            os._exit(1)  # the recorder is gone: nothing that comes can be kept
        self.scheduler.stop()

    def _finished(self, exchange: Exchange) -> None:
        outgoing: Outgoing = exchange.key
        if exchange.sent_ns is None:
            self.scheduler.unreachable(outgoing, now_ns(), exchange.cause)
            return
        self.scheduler.reachable(exchange.sent_ns)
        t_ns = exchange.ended_ns or now_ns()
        done = Finished(
            outgoing.item, outgoing.attempt, True, exchange.due_ns, exchange.reader, exchange.transfer,
            outgoing.messages if self._talks else None,
        )  # fmt: skip
        text = None
        if self._talks or not self._is_plain(exchange):
            measured = measurement(self.job, done)
            failure = measured.failure
            if failure is not None and failure.error_type in RETRYABLE:
                done = done._replace(final=not self.scheduler.again(outgoing, t_ns, failure))
            text = measured.generation.text if measured.generation else None
        if done.final:
            self.scheduler.final(outgoing, t_ns, text)
        self._done.append(done)
        self._done_bytes += exchange.reader.size

    @staticmethod
    def _is_plain(exchange: Exchange) -> bool:
        """Whether it is an answer as it should be, as far as a glance tells; else it is read in full.

        A glance, since this process must be back at its sockets within microseconds.
        """
        reader = exchange.reader
        if exchange.failure is not None or reader.status != 200 or "content-encoding" in reader.headers:
            return False
        body = reader.body()
        return not any(word in body for word in _ODD) and _PLAIN.match(body) is not None

    def _flush(self) -> None:
        if self._done:
            self._write_out(pickle.dumps(self._done, protocol=5))
            self._done, self._done_bytes = [], 0
        self._flushed_ns = now_ns()

    def _write_out(self, data: bytes) -> None:
        self._backlog.append(HEADER.pack(len(data)) + data)
        self._backlog_bytes += len(data) + HEADER.size
        self._backlog_peak = max(self._backlog_peak, self._backlog_bytes)
        self._push()

    def _push(self) -> None:
        """Write as much as the pipe takes; the rest when it takes more."""
        try:
            while self._backlog:
                written = os.write(1, self._backlog[0])
                self._backlog_bytes -= written
                rest = self._backlog.popleft()[written:]
                if rest:
                    self._backlog.appendleft(rest)
        except BlockingIOError:
            self.pump.watch(1, selectors.EVENT_WRITE, self._push)
            return
        except BrokenPipeError:
            os._exit(1)
        self.pump.watch(1, 0, self._push)

    def _says(self, wall_s: float, cpu_s: float) -> dict[str, Any]:
        passes = sorted(self._passes)
        return {
            "wall_s": wall_s,
            "cpu_s": cpu_s,
            "connections_opened": self.pump.connections_opened,
            "reconnects": self.pump.reconnects,
            "stalled_ms": self.pump.stalls.stalled_ns / 1e6,
            "passes": len(passes),
            "pass_p50_ms": passes[len(passes) // 2] / 1e6 if passes else None,
            "pass_p99_ms": passes[len(passes) * 99 // 100] / 1e6 if len(passes) >= 500 else None,
            "pass_max_ms": passes[-1] / 1e6 if passes else None,
            "backlog_peak_bytes": self._backlog_peak,
            "outages_ns": self.scheduler.outages,
            "unconnected": dict(self.scheduler.unconnected),
            "gave_up": self.scheduler.gave_up,
            "stopped": self.scheduler.stopped,
        }


def main() -> None:
    """Do the job on standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the notebook's; it says stop
    with contextlib.suppress(
        OSError, AttributeError, ImportError
    ):  # elsewhere than on Linux: only less precise
        import fcntl

        Path("/proc/self/timerslack_ns").write_text("1000")
        fcntl.fcntl(1, fcntl.F_SETPIPE_SZ, 2**20)
    allow_all_descriptors()
    job, progress = Job.read(0), Progress.read(0)
    Generator(job, progress).run()


if __name__ == "__main__":
    main()
