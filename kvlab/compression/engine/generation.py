"""What a budget gave: its tokens, what its cache really held, and its times where they are its own."""

from dataclasses import dataclass, field
from typing import Literal

from kvlab.compression.policies.base import QueryMode
from kvlab.compression.policies.budget import Budget
from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure

FinishReason = Literal["stop", "length"]

#: Why the generations of a shared prefill have no TTFT.
SHARED = "its prefill is shared with other budgets; `timed` measures one budget alone"
UNWATCHED = "not measured in a shared prefill; `timed` measures one budget alone"
FAILED = "it failed"


@dataclass(frozen=True)
class Generation:
    """One greedy generation under one budget.

    Attributes:
        policy_id: Whose entries were kept.
        budget: How many were asked for.
        query_mode: Whether the tail was in view (`kvlab.compression.policies.base`).
        n_context: Tokens of the context.
        n_tail: Tokens after it; their entries are always kept, and counted nowhere here.
        sent_ns: When its work began, on `kvlab.timing.clock`.
        token_ids: What was generated, the end-of-text token included where it came.
        text: The same without special tokens.
        finish_reason: ``stop``: an end-of-text token came. ``length``: it did not. None: it failed.
        n_kept_by_layer: Context entries in each layer's cache after pruning, read from its tensors.
        cache_bytes: Bytes of these entries, keys and values of all layers, read from the tensors.
        first_token_ns: When its first token was there, the device synchronised; None: no such moment
            of its own (`timing_reason`).
        token_ns: The same for each token; empty where `first_token_ns` is None.
        done_ns: When its work ended.
        timing_reason: Why there are no times of its own.
        peak_memory_bytes: The most memory in use while it ran, less what was in use just before, so
            without the weights: of the GPU's allocator, or of the process (resident). None: unknown.
        memory_reason: How that was measured, or why it was not.
        batch_size: Budgets that were decoded together; 1: alone.
        error: Why there is no answer.
    """

    policy_id: str
    budget: Budget
    query_mode: QueryMode
    n_context: int
    n_tail: int
    sent_ns: int
    token_ids: tuple[int, ...] = ()
    text: str = ""
    finish_reason: FinishReason | None = None
    n_kept_by_layer: list[int] = field(default_factory=list)
    cache_bytes: int | None = None
    first_token_ns: int | None = None
    token_ns: tuple[int, ...] = ()
    done_ns: int | None = None
    timing_reason: str | None = None
    peak_memory_bytes: int | None = None
    memory_reason: str = UNWATCHED
    batch_size: int = 1
    error: Failure | None = None

    @property
    def ttft_ms(self) -> float | None:
        """Prefill, scoring, pruning and the first token, in milliseconds; None: see `timing_reason`."""
        return None if self.first_token_ns is None else (self.first_token_ns - self.sent_ns) / 1e6


def as_failure(error: Exception) -> Failure:
    """Return what an exception of the engine means: out of memory, or anything else."""
    message = " ".join(str(error).split())
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    full = full or "out of memory" in message.lower() or "can't allocate memory" in message
    kind = ErrorType.OUT_OF_MEMORY if full else ErrorType.ENGINE_ERROR
    return Failure(kind, f"{type(error).__name__}: {message or 'no reason given'}"[:500])
