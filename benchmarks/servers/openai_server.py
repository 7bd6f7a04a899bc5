"""A fake OpenAI-compatible server whose cache, clock and faults are scripted, and whose truth can be read.

    python -m benchmarks.servers.openai_server --port 0 --itl-ms 2 --usage no_details

It prints {"port": N, "pid": N} when it listens. Beside the API of vLLM it has

    GET  /_truth         one record for each generation request (see truth.Truth)
    POST /_truth/clear
    GET  /_stats         counters, cache size, options
    POST /_control       {"<option>": value, ..., "evict": "all" | blocks to keep, "warm": [prompts]}
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from . import metrics, shapes, validation
from .batches import Batches
from .clock import precise_loop
from .faults import FaultPlan
from .generation import Engine, Generation, Job
from .http import Connection, Request, serve
from .law_cache import cache_of
from .metrics import Metrics
from .options import OptionError, Options, add_arguments, changed, from_arguments
from .tokenizer import Tokenizer
from .truth import Truth
from .validation import Refusal

GENERATION_PATHS = {"/v1/chat/completions": True, "/v1/completions": False}
FAULT_OPTIONS = {"faults", "fault_rate", "fault_kind", "fault_seed"}

Route = Callable[[Connection, Request], None]


class FakeServer:
    """All state of the server, and a handler for each route."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.tokenizer = Tokenizer()
        self.metrics = Metrics()
        self.cache = cache_of(options)
        self.faults = FaultPlan(options)
        self.batches = Batches()
        self.truth: list[Truth] = []
        self.connections: set[Connection] = set()
        self.requests = 0
        self.engine_is_dead = False  # until the next change of faults
        self._queue: deque[Generation] = deque()
        self._warm(options.warm_prompts)
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/health"): self._health,
            ("GET", "/version"): self._version,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/v1/models"): self._models,
            ("GET", "/props"): self._props,
            ("GET", "/api/version"): self._ollama_version,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/detokenize"): self._detokenize,
            ("POST", "/reset_prefix_cache"): self._reset,
            ("GET", "/_truth"): self._truth,
            ("POST", "/_truth/clear"): self._clear_truth,
            ("GET", "/_stats"): self._stats,
            ("POST", "/_control"): self._control,
        }

    def connection(self) -> Connection:
        """The protocol for one more client."""
        return Connection(self.handle, self.connections, shapes.SERVER_NAMES[self.options.persona])

    def handle(self, connection: Connection, request: Request) -> None:
        """Answers one request."""
        try:
            if request.method == "POST" and request.path in GENERATION_PATHS:
                self._generate(connection, request)
                return
            if request.path.startswith("/v1/"):
                validation.check_key(request.headers, self.options)
                if self.batches.handle(connection, request, self):
                    return
            route = self._routes.get((request.method, request.path), self._not_found)
            route(connection, request)
        except Refusal as refusal:
            connection.respond(refusal.status, refusal.body)
        except (ValueError, KeyError, TypeError, AttributeError) as wrong:  # a malformed body
            connection.respond(400, shapes.error(400, f"{type(wrong).__name__}: {wrong}"))

    # --- generation -----------------------------------------------------------------------------

    def _generate(self, connection: Connection, request: Request) -> None:
        self.requests += 1
        own_id = f"{self.requests:016x}"
        request_id = request.headers.get("x-request-id", own_id)
        truth = Truth(request_id, request.path, self.requests, request.received_ns, fault=self.faults.next())
        self.truth.append(truth)
        if truth.fault and self._struck_before(truth, connection):
            return
        try:
            job = self._job(request, truth)
        except (Refusal, ValueError, KeyError, TypeError, AttributeError) as refusal:
            truth.status, truth.outcome = getattr(refusal, "status", 400), "rejected"
            raise
        engine = Engine(self.options, self.cache, self.metrics, self.tokenizer)
        self._admit(Generation(engine, connection, truth, job, self._ended))

    def _job(self, request: Request, truth: Truth) -> Job:
        validation.check_key(request.headers, self.options)
        job = validation.job(
            request.json(),
            chat=GENERATION_PATHS[request.path],
            schedule_header=request.headers.get("x-fake-schedule", ""),
            fault=truth.fault,
            parts=(self.options, self.tokenizer),
        )
        truth.prompt_tokens, truth.salt, truth.stream = len(job.tokens), job.sent_salt, job.stream
        if truth.fault == "no_done" and not job.stream:
            truth.fault = None  # there is no [DONE] to leave out
        return job

    def _struck_before(self, truth: Truth, connection: Connection) -> bool:
        """Applies a fault that needs no generation; says whether it was one."""
        fault = truth.fault or ""
        truth.outcome = "fault"
        if fault == "engine_dead":
            self.engine_is_dead = True
            message = "EngineCore encountered an issue. See stack trace (above) for the root cause."
            connection.respond(500, shapes.error(500, message))
            return True
        if fault.startswith("status_"):
            truth.status = int(fault.removeprefix("status_"))
            headers = {"retry-after": str(self.options.retry_after_s)} if truth.status in (429, 503) else {}
            connection.respond(truth.status, shapes.error(truth.status, "A fault was ordered."), headers)
            return True
        if fault not in ("disconnect_before", "stall_before"):
            truth.outcome = "open"
            return False
        truth.status = 0  # no answer at all
        if fault == "disconnect_before":
            connection.abort()
        return True

    def _admit(self, generation: Generation) -> None:
        self._queue.append(generation)
        self.metrics.waiting += 1
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Starts what waits, as far as `max_running` and `answer_first` allow."""
        most, first = self.options.max_running, self.options.answer_first
        while self._queue and not (most and self.metrics.running >= most):
            if first and self._queue[0].truth.n > first:
                return
            self.metrics.waiting -= 1
            self.metrics.running += 1
            self._queue.popleft().start()

    def _ended(self, generation: Generation) -> None:
        if generation.truth.started_ns is None:  # its client left while it waited
            self._queue.remove(generation)
            self.metrics.waiting -= 1
            return
        self.metrics.running -= 1
        self._start_waiting()

    # --- the API beside generation --------------------------------------------------------------

    def _not_found(self, connection: Connection, request: Request) -> None:
        methods = [method for method, path in self._routes if path == request.path]
        if methods or request.path in GENERATION_PATHS:
            allow = {"allow": methods[0] if methods else "POST"}
            connection.respond(405, {"detail": "Method Not Allowed"}, allow)
        else:
            connection.respond(404, {"detail": "Not Found"})

    def _only(self, connection: Connection, *personas: str, enabled: bool = True) -> bool:
        """Whether this server has the route; if not, it has answered 404."""
        if enabled and self.options.persona in personas:
            return True
        connection.respond(404, {"detail": "Not Found"})
        return False

    def _health(self, connection: Connection, request: Request) -> None:
        status = 503 if self.engine_is_dead else 200
        connection.respond(status, {"status": "ok"} if self.options.persona == "llamacpp" else b"")

    def _version(self, connection: Connection, request: Request) -> None:
        if self._only(connection, "vllm", enabled=self.options.version):
            connection.respond(200, {"version": "0.32.0"})

    def _ollama_version(self, connection: Connection, request: Request) -> None:
        if self._only(connection, "ollama", enabled=self.options.version):
            connection.respond(200, {"version": "0.12.0"})

    def _props(self, connection: Connection, request: Request) -> None:
        if self._only(connection, "llamacpp"):
            connection.respond(200, shapes.llamacpp_props(self.options))

    def _models(self, connection: Connection, request: Request) -> None:
        connection.respond(200, shapes.models(self.options))

    def _metrics(self, connection: Connection, request: Request) -> None:
        if self._only(connection, "vllm", enabled=self.options.metrics):
            options = self.options
            text = self.metrics.render(options.model, options.block_size, options.capacity_blocks)
            connection.respond(200, text, content_type=metrics.CONTENT_TYPE)

    def _tokenize(self, connection: Connection, request: Request) -> None:
        if not self._only(connection, "vllm", "llamacpp", enabled=self.options.tokenize):
            return
        body = request.json()
        if self.options.persona == "llamacpp":
            connection.respond(200, {"tokens": self.tokenizer.encode(body.get("content", ""))})
            return
        validation.check_model(body, self.options)
        ids = validation.prompt_tokens(
            body, chat="messages" in body, options=self.options, tokenizer=self.tokenizer, limited=False
        )
        pieces = [self.tokenizer.piece(token) for token in ids] if body.get("return_token_strs") else None
        limits = {"count": len(ids), "max_model_len": self.options.max_model_len}
        connection.respond(200, {**limits, "tokens": ids, "token_strs": pieces})

    def _detokenize(self, connection: Connection, request: Request) -> None:
        if self._only(connection, "vllm", enabled=self.options.tokenize):
            connection.respond(200, {"prompt": self.tokenizer.decode(request.json()["tokens"])})

    def _reset(self, connection: Connection, request: Request) -> None:
        if not self._only(connection, "vllm", enabled=self.options.reset != "absent"):
            return
        # vLLM too refuses while requests hold blocks.
        success = self.options.reset == "lie" or (self.options.reset == "ok" and not self.metrics.running)
        if success and self.options.reset == "ok":
            self.cache.evict_to(0)
        connection.respond(200, {"success": success})

    # --- what only a fake has -------------------------------------------------------------------

    def _truth(self, connection: Connection, request: Request) -> None:
        connection.respond(200, [dataclasses.asdict(record) for record in self.truth])

    def _clear_truth(self, connection: Connection, request: Request) -> None:
        self.truth.clear()
        connection.respond(200, {})

    def _stats(self, connection: Connection, request: Request) -> None:
        counted = {
            "requests": self.requests,
            "connections": len(self.connections),
            "cache_blocks": len(self.cache),
            "metrics": dataclasses.asdict(self.metrics),
            "options": {**dataclasses.asdict(self.options), "require_key": bool(self.options.require_key)},
        }
        connection.respond(200, counted)

    def _control(self, connection: Connection, request: Request) -> None:
        changes: dict[str, Any] = request.json()
        keep, warm = changes.pop("evict", None), changes.pop("warm", [])
        self.options = changed(self.options, changes)
        if changes.keys() & FAULT_OPTIONS:
            self.faults, self.engine_is_dead = FaultPlan(self.options), False
        if changes.keys() & {"block_size", "law", "policy", "ttl_s"}:
            self.cache = cache_of(self.options)
        if changes.keys() & {"block_size", "capacity_blocks"}:
            self.cache.capacity = self.options.capacity_blocks or None
            self.cache.evict_to(self.options.capacity_blocks or len(self.cache))
        if keep is not None:
            self.cache.evict_to(0 if keep == "all" else int(keep))
        self._warm([*changes.get("warm_prompts", []), *warm])
        self._start_waiting()
        connection.respond(200, {"cache_blocks": len(self.cache)})

    def _warm(self, prompts: list[Any]) -> None:
        """Stores prompts: strings, id lists, message lists, or the part of a request body that has them."""
        for prompt in prompts:
            body = prompt if isinstance(prompt, dict) else {_prompt_key(prompt): prompt}
            tokens = validation.prompt_tokens(
                body, chat="messages" in body, options=self.options, tokenizer=self.tokenizer
            )
            self.cache.store(self.cache.chain(tokens, body.get("cache_salt")))


def _prompt_key(prompt: object) -> str:
    is_chat = isinstance(prompt, list) and bool(prompt) and isinstance(prompt[0], dict)
    return "messages" if is_chat else "prompt"


def _announce(port: int) -> None:
    print(json.dumps({"port": port, "pid": os.getpid()}), flush=True)


async def _serve_until_told(options: Options, port: int, *, lifeline: bool) -> None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    if lifeline:
        # Whoever started this holds the other end: it ends with them, however they end.
        stdin = sys.stdin.fileno()
        loop.add_reader(stdin, lambda: os.read(stdin, 4096) or task.cancel())
    await serve(FakeServer(options).connection, "127.0.0.1", port, announce=_announce)


def main() -> None:
    """Serves on the loopback interface until SIGTERM, or until stdin closes under --lifeline."""
    parser = argparse.ArgumentParser(description="A fake OpenAI-compatible server with a known truth.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--lifeline", action="store_true", help="stop when stdin reaches its end")
    add_arguments(parser)
    arguments = parser.parse_args()
    try:
        options = from_arguments(arguments)
    except OptionError as wrong:
        parser.error(str(wrong))
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        runner.run(_serve_until_told(options, arguments.port, lifeline=arguments.lifeline))


if __name__ == "__main__":
    main()
