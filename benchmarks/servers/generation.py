"""One generation request from its place in the queue to its last byte."""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from zlib import crc32

from . import schedule, shapes
from .http import Connection, to_json
from .metrics import Metrics
from .options import Options
from .prefix_cache import Chain, PrefixCache
from .schedule import Plan, Write
from .shapes import ChunkShapes, Counts
from .tokenizer import Tokenizer
from .truth import Truth


@dataclass(frozen=True)
class Job:
    """A valid request: what to generate, for whom."""

    tokens: list[int]
    sent_salt: str | None
    salt: str | None  # the one in effect
    limit: int
    explicit_ms: list[float]
    chat: bool
    stream: bool
    include_usage: bool
    ignore_eos: bool
    fault: str | None
    kv_budget: float = 1.0


@dataclass(frozen=True)
class Engine:
    """What all generations share."""

    options: Options
    cache: PrefixCache
    metrics: Metrics
    tokenizer: Tokenizer


class Generation:
    """Emits one answer on schedule and writes down when it really did.

    Args:
        engine: The shared state.
        connection: Where the answer goes.
        truth: The record to fill.
        job: What to do.
        on_end: Called once when this no longer runs.
    """

    def __init__(
        self,
        engine: Engine,
        connection: Connection,
        truth: Truth,
        job: Job,
        on_end: Callable[[Generation], None],
    ) -> None:
        self.engine = engine
        self.connection = connection
        self.truth = truth
        self.job = job
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._writes: list[Write] = []
        self._at = 0
        self._chain: Chain = []
        self._plan: Plan
        self._prefilled_ns: int | None = None
        self._last_write_ns: int | None = None
        connection.on_lost = self._client_gone

    def start(self) -> None:
        """Leaves the queue: looks into the cache, fixes the schedule and sets the first timer."""
        job, truth, options = self.job, self.truth, self.engine.options
        # Without a queue the schedule counts from the arrival, so the work done here is inside it.
        queues = options.max_running or options.answer_first
        truth.started_ns = time.perf_counter_ns() if queues else truth.received_ns
        if job.stream:
            self.connection.start_stream()
        counts = self._look_up()
        gaps = schedule.token_gaps_ms(
            options, job.explicit_ms, counts.prompt - counts.cached, job.limit, ignore_eos=job.ignore_eos
        )
        seed = crc32(array("Q", job.tokens[-64:]))
        self._plan = schedule.plan(gaps, truth.started_ns, job.limit, seed, options)
        truth.scheduled_first_ns = self._plan.due_ns[0]
        counts = replace(counts, generated=len(self._plan.words))
        self._writes = self._stream_writes(counts) if job.stream else self._body_writes(counts)
        self._step()

    def _look_up(self) -> Counts:
        job, cache, metrics = self.job, self.engine.cache, self.engine.metrics
        cached, prompt = 0, len(job.tokens)
        if self.engine.options.prefix_caching:
            self._chain = cache.chain(job.tokens, job.salt)
            cached = cache.match(self._chain, prompt)
            metrics.queries += prompt
            metrics.hits += cached
        self.truth.cached_tokens = cached
        kept = prompt if self.engine.options.kv_ignores else max(1, int(prompt * job.kv_budget))
        return Counts(prompt, cached, 0, len(self._chain) * cache.block_size - cached, kept)

    def _stream_writes(self, counts: Counts) -> list[Write]:
        options, shape = self.engine.options, self._shape()
        events = schedule.stream_events(
            self._plan, self._started_ns(), shape, counts, options, include_usage=self.job.include_usage
        )
        events = schedule.with_fault(events, self.job.fault, options.fault_after_tokens)
        planned = schedule.writes(events, options)
        if self.job.fault in ("stall_mid", "disconnect_mid"):
            return planned
        return [*planned, schedule.END]

    def _body_writes(self, counts: Counts) -> list[Write]:
        """Two steps, as blocks become available at the first token although nothing is written."""
        plan, options = self._plan, self.engine.options
        told = shapes.usage(counts, options, stream=False)
        body = shapes.completion(self._shape(), plan.words, plan.reasoning_tokens, plan.finish, told)
        if options.custom_metric_field:
            shapes.put(body, options.custom_metric_field, counts.cached)
        if options.kv_field:
            shapes.put(body, options.kv_field, counts.kept)
        return [
            Write(plan.due_ns[0], "prefilled", 0, b""),
            Write(plan.due_ns[-1], "body", len(plan.words), to_json(body)),
        ]

    def _shape(self) -> ChunkShapes:
        kind = "chatcmpl" if self.job.chat else "cmpl"
        return ChunkShapes(f"{kind}-{self.truth.request_id}", self.engine.options, chat=self.job.chat)

    def _started_ns(self) -> int:
        return self.truth.started_ns or self.truth.received_ns

    def _step(self) -> None:
        """Performs all writes that are due, then sleeps until the next one is."""
        self._timer = None
        writes = self._writes
        while self._at < len(writes):
            write = writes[self._at]
            if write.due_ns > time.perf_counter_ns():
                # The loop's clock is the same one, in seconds.
                self._timer = self._loop.call_at(write.due_ns / 1e9, self._step)
                return
            self._at += 1
            if self.job.stream:
                self._emit(write)
            elif write.kind == "body":
                self._emit_body(write)
            else:
                self._prefill_ends(time.perf_counter_ns())
        self._end_of_writes()

    def _emit(self, write: Write) -> None:
        transport = self.connection.transport
        now = time.perf_counter_ns()
        transport.write(write.data)
        self._last_write_ns = now
        # All bookkeeping comes after the write, so that the stamp stays next to it.
        if write.tokens:
            self._tokens_emitted(write.tokens, now)
        if self.engine.options.record_chunks and write.kind != "end":
            self.truth.chunks.append((write.kind, write.due_ns, now))

    def _emit_body(self, write: Write) -> None:
        fault, status, data = self.job.fault, 200, write.data
        if fault in ("stall_mid", "disconnect_mid"):
            return
        if fault == "malformed":
            data = data[: len(data) // 2]
        elif fault == "error_event":
            status, data = 500, to_json(shapes.error(500, schedule.ENGINE_FAILED))
        self.truth.status = status
        now = time.perf_counter_ns()
        self.connection.respond(status, data)
        self._last_write_ns = now
        self._tokens_emitted(write.tokens, now)
        if self.engine.options.record_chunks:
            self.truth.chunks.append(("body", write.due_ns, now))

    def _tokens_emitted(self, tokens: int, now: int) -> None:
        truth = self.truth
        if truth.first_token_emit_ns is None:
            truth.first_token_emit_ns = now
            self._prefill_ends(now)
        truth.last_token_emit_ns = now
        truth.tokens += tokens
        self.engine.metrics.generated += tokens

    def _prefill_ends(self, now: int) -> None:
        if self._prefilled_ns is not None:
            return
        self._prefilled_ns = now
        engine, truth = self.engine, self.truth
        engine.metrics.prefilled(len(self.job.tokens), truth.cached_tokens or 0)
        engine.metrics.ttft.add_ns(now - truth.received_ns)
        if engine.options.prefix_caching:
            engine.cache.store(self._chain)

    def _end_of_writes(self) -> None:
        fault = self.job.fault
        if fault == "stall_mid":
            return  # holds the connection, and its place, until the client gives up
        self.truth.done_ns = self._last_write_ns or time.perf_counter_ns()
        if fault == "disconnect_mid":
            self._close("error", "fault")
            # Closed, not aborted: the bytes sent so far must arrive before the end does.
            self.connection.on_lost = None
            self.connection.transport.close()
            return
        self._store_generated()
        reason = "error" if fault == "error_event" else self._plan.finish
        self._close(reason, "fault" if fault else "done")
        if self.job.stream:
            self.connection.finish()

    def _store_generated(self) -> None:
        """As in vLLM the KV of generated tokens is stored too, but the last one never had any."""
        engine, emitted = self.engine, self.truth.tokens
        if not engine.options.prefix_caching:
            return
        words = self._plan.words[:emitted][:-1]
        ids = [engine.tokenizer.piece_id(shapes.PIECES[word][i > 0]) for i, word in enumerate(words)]
        engine.cache.store(engine.cache.chain(self.job.tokens + ids, self.job.salt, known=self._chain))

    def _client_gone(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self.truth.outcome == "open":
            self.truth.done_ns = time.perf_counter_ns()
            self._close("abort", "fault" if self.job.fault else "client_gone")

    def _close(self, reason: str, outcome: str) -> None:
        truth, metrics = self.truth, self.engine.metrics
        truth.outcome = outcome
        metrics.finished[reason] += 1
        end = truth.done_ns or 0
        metrics.e2e.add_ns(end - truth.received_ns)
        if self._prefilled_ns is not None and truth.started_ns is not None:
            metrics.queue.add_ns(truth.started_ns - truth.received_ns)
            metrics.prefill.add_ns(self._prefilled_ns - truth.started_ns)
            metrics.decode.add_ns((truth.last_token_emit_ns or self._prefilled_ns) - self._prefilled_ns)
        self._on_end(self)
