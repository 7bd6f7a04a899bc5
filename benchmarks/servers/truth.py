"""What really happened to a generation request, for comparison with what a client measured."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Truth:
    """One generation request. Times are perf_counter_ns (CLOCK_MONOTONIC: comparable across processes).

    Emission stamps are taken right before the write that completes the token's event, `done_ns`
    right before the last write, so that none can lie after what a client sees of it. Without
    streaming both token stamps are that of the whole body. `scheduled_first_ns` is when the first
    token was due. `outcome` is open, done, fault, client_gone or rejected.
    """

    request_id: str
    path: str
    n: int
    received_ns: int
    started_ns: int | None = None  # when it left the queue
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    salt: str | None = None  # as sent, honoured or not
    stream: bool = False
    scheduled_first_ns: int | None = None
    first_token_emit_ns: int | None = None
    last_token_emit_ns: int | None = None
    done_ns: int | None = None
    tokens: int = 0
    chunks: list[tuple[str, int, int]] = field(default_factory=list)  # kind, scheduled_ns, emitted_ns
    fault: str | None = None
    status: int = 200
    outcome: str = "open"
