"""What is planned and what is recorded, before either meets the database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kvlab.endpoints.metrics import ServerView
from kvlab.evidence import CacheLabel, CacheState, Evidence, as_tokens
from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Measurement


@dataclass(frozen=True)
class Trial:
    """A planned unit of work; a token sweep's is a pair.

    Attributes:
        trial_id: The same on every run of the same parameters.
        point: What it measures (a prompt length, a budget), as text.
        repeat: Which repeat of that point, from 1.
        planned: Whatever else the experiment needs to measure it.
        commit: ``whole``: its requests count together or not at all; where one fails, the trial starts again
            from its beginning under a new attempt number. ``each``: every request is stored as it comes, and
            a later session goes on behind the last one.
        requests: How many requests it makes, as planned.
    """

    trial_id: str
    point: str
    repeat: int
    planned: Mapping[str, Any] = field(default_factory=dict)
    commit: Literal["whole", "each"] = "whole"
    requests: int = 1


@dataclass(frozen=True)
class KVKept:
    """What the KV cache of one answer held.

    Attributes:
        policy_id: The policy with its parameters.
        budget: Which fraction of the context's entries was asked for.
        n_context: Entries of the whole context, a layer.
        n_planned: Entries to keep, a layer.
        n_kept: Entries that were kept, by layer: read from the cache, or from the endpoint's answer.
        cache_bytes: Of keys and values, with what was kept and what the question added.
        evidence: Where ``n_kept`` comes from.
    """

    policy_id: str
    budget: float
    n_context: int
    n_planned: int
    n_kept: tuple[int, ...]
    evidence: str
    cache_bytes: int | None = None
    peak_memory_bytes: int | None = None
    memory_reason: str | None = None


@dataclass(frozen=True)
class Recorded:
    """One request that was made, with its answer or failure and the evidence.

    Attributes:
        run_id: The engine setting that it ran under, where that is not the run's own.
        example_id: The dataset's example that it asked, if it is one.
        phase: What the request is for, where an arm is measured for more than one end.
        kv: What the cache held, where a KV budget was applied.
        item: Which request of a trial of many, from 0; ``None``: the trial has no items.
        final: Whether it is the last attempt at its item.
        due_ns: When it was to be sent, on the clock of the stamps.
        expected: Whether a failure is what the trial set out to find (a limit): then it does not end the trial.
    """

    request_id: str
    arm: str
    attempt: int
    prompt: Mapping[str, Any]
    decoding: Mapping[str, Any]
    target_tokens: int | None
    sent_utc: str
    measurement: Measurement
    server: ServerView
    evidence: Evidence
    label: CacheLabel
    shared_tokens: int = 0
    measured: bool = True
    run_id: str | None = None
    example_id: str | None = None
    phase: str | None = None
    kv: KVKept | None = None
    item: int | None = None
    final: bool | None = None
    due_ns: int | None = None
    expected: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.measurement.failure is None

    @property
    def was_read(self) -> bool:
        """Whether the server read the prompt: it answered, or it counted a prompt that it answered with nothing.

        A model may end its answer before the first visible character, or stop within one. Without the
        server's count, an empty answer shows nothing.
        """
        failure = self.measurement.failure
        empty = failure is not None and failure.error_type is ErrorType.EMPTY_OUTPUT
        return failure is None or (empty and self.evidence.prompt_tokens is not None)

    @property
    def completion_tokens(self) -> int | None:
        """How many tokens the server says that it made; ``None``: it does not say, or no such number."""
        generation = self.measurement.generation
        return as_tokens((generation.usage or {}).get("completion_tokens")) if generation else None

    @property
    def state(self) -> CacheState:
        """The cache label's state."""
        return self.label.state
