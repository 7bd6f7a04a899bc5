"""What is planned and what is recorded, before either meets the database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kvlab.cache_state import CacheLabel, CacheState, Evidence
from kvlab.serving.metrics import ServerView
from kvlab.timing.request import Measurement


@dataclass(frozen=True)
class Trial:
    """A planned unit of work; a token sweep's is a pair.

    Attributes:
        trial_id: The same on every run of the same parameters.
        ordinal: Its place in the order of measuring, from 0.
        point: What it measures (a prompt length, a budget), as text.
        repeat: Which repeat of that point, from 1.
        planned: Whatever else the experiment needs to measure it.
    """

    trial_id: str
    ordinal: int
    point: str
    repeat: int
    planned: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """One request that was made, with its answer or failure and the evidence.

    Attributes:
        item: Which request of a trial of many, from 0; ``None``: the trial has no items.
        final: Whether it is the last attempt at its item.
        due_ns: When it was to be sent, on the clock of the stamps.
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
    item: int | None = None
    final: bool | None = None
    due_ns: int | None = None

    @property
    def ok(self) -> bool:
        """Whether there is an answer."""
        return self.measurement.failure is None

    @property
    def state(self) -> CacheState:
        """The cache label's state."""
        return self.label.state
