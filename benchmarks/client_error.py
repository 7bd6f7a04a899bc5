"""How far is a measured TTFT from the one that the server emitted?

The fake server stamps the moment at which it has read a request and the moment at which it writes
the first token, on the same clock (CLOCK_MONOTONIC) as the client. The error of a measurement is

    (first_token - sent) by the client  -  (first token written - request read) by the server

so it holds both ways through the loopback, the server's loop, and all that the client adds. The
clients send the same requests at the same planned moments: kvlab's two, the openai SDK's raw bytes,
and the SDK's parsed stream, which is what most benchmarks time. They alternate, so that a noisy machine
is noisy for all.
"""

import asyncio
import json
import os
import selectors
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import openai

from benchmarks.servers.process import FakeServer
from kvlab.timing.client import Client
from kvlab.timing.clock import now_ns
from kvlab.timing.pump import Exchange, Pump
from kvlab.timing.request import Measurement, Target, interpret

TOKENS = 16
BODY: dict[str, Any] = {
    "model": "fake",
    "messages": [{"role": "user", "content": "What does a prefix cache keep?"}],
    "max_tokens": TOKENS,
    "temperature": 0,
    "stream": True,
    "stream_options": {"include_usage": True},
}


@dataclass
class Load:
    """One client's requests at one rate: when each was due, sent, and had its first token."""

    sent_ns: dict[str, int] = field(default_factory=dict)
    first_ns: dict[str, int] = field(default_factory=dict)
    lag_ms: list[float] = field(default_factory=list)  # sent after the planned moment
    failed: int = 0

    def record(self, request_id: str, measured: Measurement) -> None:
        if measured.failure is not None or measured.stamps.first_token_ns is None:
            self.failed += 1
            return
        self.sent_ns[request_id] = measured.stamps.sent_ns
        self.first_ns[request_id] = measured.stamps.first_token_ns


class Kvlab:
    """kvlab's client for many requests at once, the load generator's pump, in a thread of its own."""

    name = "kvlab, pump"

    def __init__(self, base_url: str) -> None:
        self.target = Target(base_url)
        self.due: deque[Exchange] = deque()
        self.wakes, self.wakened = os.pipe()
        self.pump = Pump(self.target, self._finished)
        self.pump.watch(self.wakes, selectors.EVENT_READ, self._take)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.over = False
        self.thread.start()

    async def send(self, request_id: str, load: Load) -> None:
        request = self.target.encode("/chat/completions", BODY, {"X-Request-Id": request_id})
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Exchange] = loop.create_future()
        self.due.append(Exchange((loop, answered), request, now_ns()))
        os.write(self.wakened, b"x")
        exchange = await answered
        load.record(request_id, interpret(self.target, exchange.reader, exchange.transfer))

    async def close(self) -> None:
        self.over = True
        os.write(self.wakened, b"x")
        await asyncio.to_thread(self.thread.join)
        self.pump.close()
        os.close(self.wakes)
        os.close(self.wakened)

    def _run(self) -> None:
        while not self.over:
            self.pump.poll(1.0)

    def _take(self) -> None:
        os.read(self.wakes, 4096)
        while self.due:
            self.pump.send(self.due.popleft())

    @staticmethod
    def _finished(exchange: Exchange) -> None:
        loop, answered = exchange.key
        loop.call_soon_threadsafe(answered.set_result, exchange)


class KvlabOneAtATime:
    """The client that the experiments use at concurrency 1: it blocks, so the loop has nothing else to do."""

    name = "kvlab, one at a time"
    max_rate_per_s = 5.0

    def __init__(self, base_url: str) -> None:
        self.client = Client(Target(base_url))

    async def send(self, request_id: str, load: Load) -> None:
        measured = self.client.measure("/chat/completions", BODY, request_id)
        load.record(request_id, measured)

    async def close(self) -> None:
        self.client.close()


class SdkBytes:
    """The openai SDK's raw stream: its request path, but our stamps on the bytes."""

    name = "openai SDK, raw bytes"

    def __init__(self, base_url: str) -> None:
        self.client = openai.AsyncOpenAI(base_url=base_url, api_key="EMPTY", max_retries=0)

    async def send(self, request_id: str, load: Load) -> None:
        sent = now_ns()
        create = self.client.chat.completions.with_streaming_response.create
        async with create(**BODY, extra_headers={"X-Request-Id": request_id}) as response:
            pieces = [(now_ns(), data) async for data in response.iter_bytes()]
        load.sent_ns[request_id] = sent
        rest = b""
        for t_ns, data in pieces:
            *lines, rest = (rest + data).split(b"\n")
            if any(_is_token(line) for line in lines):
                load.first_ns[request_id] = t_ns
                return

    async def close(self) -> None:
        await self.client.close()


def _is_token(line: bytes) -> bool:
    if not line.startswith(b"data: {"):
        return False
    choices = json.loads(line[6:])["choices"]
    return bool(choices and choices[0]["delta"].get("content"))


class SdkParsed(SdkBytes):
    """The openai SDK's stream of objects: what most benchmarks time."""

    name = "openai SDK, parsed"

    async def send(self, request_id: str, load: Load) -> None:
        sent = now_ns()
        stream = await self.client.chat.completions.create(**BODY, extra_headers={"X-Request-Id": request_id})
        async for chunk in stream:
            if request_id not in load.first_ns and chunk.choices and chunk.choices[0].delta.content:
                load.first_ns[request_id] = now_ns()
        load.sent_ns[request_id] = sent


CLIENTS = (KvlabOneAtATime, Kvlab, SdkBytes, SdkParsed)


async def _offer(client: Any, tag: str, rate_per_s: float, seconds: float) -> Load:
    """Open loop: request i is due at i / rate, whatever became of the ones before."""
    load = Load()
    for i in range(3):  # the first requests pay for connections and lazy imports
        await client.send(f"{tag}-warm-{i}", Load())
    start = time.perf_counter()
    tasks = []
    for i in range(int(rate_per_s * seconds)):
        due = start + i / rate_per_s
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        load.lag_ms.append((time.perf_counter() - due) * 1e3)
        tasks.append(asyncio.create_task(client.send(f"{tag}-{i}", load)))
    await asyncio.gather(*tasks)
    return load


class Error(NamedTuple):
    """The two halves of one request's error, in ms: until the server had it, and back."""

    there_ms: float
    back_ms: float


def _errors(load: Load, truth: list[dict[str, Any]]) -> list[Error]:
    by_id = {record["request_id"]: record for record in truth}
    return [
        Error(
            there_ms=(by_id[request_id]["received_ns"] - load.sent_ns[request_id]) / 1e6,
            back_ms=(first - by_id[request_id]["first_token_emit_ns"]) / 1e6,
        )
        for request_id, first in load.first_ns.items()
    ]


def _quantiles(values: list[float]) -> dict[str, float | None]:
    """p99 needs a hundred values; below that it would be the maximum by another name."""
    p99 = round(float(np.percentile(values, 99)), 3) if len(values) >= 100 else None
    return {"p50": round(float(np.median(values)), 3), "p99": p99, "max": round(max(values), 3)}


def run(rounds: int = 3, plan: tuple[tuple[float, float], ...] = ((1, 34), (200, 5))) -> list[dict[str, Any]]:
    """Return one row for each client and rate, over all rounds together, with each round's p50.

    Args:
        rounds: How often the clients take turns.
        plan: Pairs of a rate (requests/s) and how long it is offered in each round (s).
    """
    rows = []
    with FakeServer(base_ms=50, itl_ms=5, output_tokens=TOKENS, role_chunk_lead_ms=30) as server:
        for rate, seconds in plan:
            kinds = [kind for kind in CLIENTS if rate <= getattr(kind, "max_rate_per_s", rate)]
            loads: dict[str, list[tuple[list[Error], Load]]] = {kind.name: [] for kind in kinds}
            for turn in range(rounds):
                for kind in kinds:
                    server.clear_truth()
                    load = asyncio.run(_one(kind, server.base_url, f"{rate:g}-{turn}", rate, seconds))
                    loads[kind.name].append((_errors(load, server.truth()), load))
                    print(
                        f"  {rate:g}/s, round {turn + 1}, {kind.name}: {len(load.first_ns)} requests",
                        flush=True,
                    )
            rows += [_row(name, rate, found) for name, found in loads.items()]
    return rows


async def _one(kind: Any, base_url: str, tag: str, rate: float, seconds: float) -> Load:
    client = kind(base_url)
    try:
        return await _offer(client, f"{kind.name.replace(' ', '_')}-{tag}", rate, seconds)
    finally:
        await client.close()


def _row(name: str, rate: float, found: list[tuple[list[Error], Load]]) -> dict[str, Any]:
    errors = [error for values, _ in found for error in values]
    return {
        "client": name,
        "rate_per_s": rate,
        "requests": len(errors),
        "failed": sum(load.failed for _, load in found),
        "ttft_error_ms": _quantiles([abs(sum(error)) for error in errors]),
        "ttft_error_p50_ms_by_round": [
            _quantiles([abs(sum(e)) for e in values])["p50"] for values, _ in found
        ],
        "there_ms": _quantiles([error.there_ms for error in errors]),
        "back_ms": _quantiles([error.back_ms for error in errors]),
        "send_lag_ms": _quantiles([lag for _, load in found for lag in load.lag_ms]),
    }
