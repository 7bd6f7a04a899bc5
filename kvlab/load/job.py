"""What the load generator is to do, as JSON through a pipe: it holds secrets and is never stored.

And how many connections it can have: each takes a file descriptor, and the system allows a process only
so many.
"""

import contextlib
import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from kvlab.evidence import CacheLaw, Evidence, zero_judged
from kvlab.prompts.batch import Workload
from kvlab.timing.arrivals import Arrivals
from kvlab.timing.request import Target

try:
    import resource
except ImportError:  # Windows: there is no such limit, and no load generator
    resource = None  # type: ignore[assignment]

HEADER = struct.Struct("<Q")  # before each message in a pipe: its length
_MOST_DESCRIPTORS = 65_536
_OTHER_DESCRIPTORS = 64  # pipes, files, the database, the selector


def pack(value: object) -> bytes:
    """Return a JSON value as one message."""
    data = json.dumps(value).encode()
    return HEADER.pack(len(data)) + data


def read_exactly(descriptor: int, count: int) -> bytes:
    """Read so many bytes from a pipe, without a buffer that would take more.

    Raises:
        EOFError: It ends before that.
    """
    data = bytearray()
    while len(data) < count:
        piece = os.read(descriptor, count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def unpack(descriptor: int) -> Any:  # noqa: ANN401 - JSON
    """Read one message.

    Raises:
        EOFError: The pipe has ended.
    """
    (length,) = HEADER.unpack(read_exactly(descriptor, HEADER.size))
    return json.loads(read_exactly(descriptor, length))


@dataclass(frozen=True)
class Retries:
    """When a failed request is sent again.

    Attributes:
        max_attempts: How often one request is sent at most.
        wait_s: Before the second attempt; it doubles with each, with jitter (AWS Architecture Blog
            2015, "Exponential Backoff and Jitter"), and a longer ``Retry-After`` is obeyed.
        max_wait_s: The longest wait.
        outage_limit_s: How long to wait for a server that accepts no connection at all, or answers
            nothing but that it is busy: an outage costs time, not attempts.
    """

    max_attempts: int = 6
    wait_s: float = 0.5
    max_wait_s: float = 30.0
    outage_limit_s: float = 300.0


@dataclass(frozen=True)
class Labels:
    """What cache labels are made with (`kvlab.evidence.classify`).

    Attributes:
        law: What the server's cache reuses; ``None``: unknown.
        shared_tokens: Leading tokens that all prompts of the run share.
        prefix_tokens: Leading tokens that the prompts of this trial share; ``None``: unknown, or no
            fixed number.
        nothing_reused: Why 0 cached tokens prove nothing on this server; ``None``: they prove a cold request.
        model_aliases: Other names of the model that is asked for.
    """

    law: CacheLaw | None = None
    shared_tokens: int = 0
    prefix_tokens: int | None = None
    nothing_reused: str | None = None
    model_aliases: tuple[str, ...] = ()

    @property
    def aliases(self) -> frozenset[str]:
        """The aliases as a set."""
        return frozenset(self.model_aliases)

    def judged(self, evidence: Evidence) -> Evidence:
        """Return the evidence with a 0 that proves nothing named so."""
        return zero_judged(evidence, self.nothing_reused)

    @classmethod
    def of(cls, law: Mapping[str, Any] | None, **values: Any) -> "Labels":  # noqa: ANN401 - JSON
        """Return them as `asdict` has taken them apart."""
        return cls(None if law is None else CacheLaw(**law), **values)


@dataclass(frozen=True)
class Job:
    """One trial of many requests, or what is left of it.

    Attributes:
        database: The run's database file.
        run_id, trial_id, session_id: Where its rows belong.
        arm: The strategy; a row's arm is ``<arm>/<item>``.
        tag: Begins every request's id; no other session has it.
        items: How many requests the trial has, whether measured already or not.
        workload: What they ask.
        arrivals: When they are sent.
        target: Where they go.
        body: What all request bodies share: model, decoding, stream options.
        salted: Whether to send the marker as ``cache_salt``, too.
        retries: When a failed one is sent again.
        labels: What cache labels are made with.
        max_connections: At most so many at a time; ``None``: as many as there are requests in flight.
        secrets: Taken out of error messages.
        backlog_bytes: So much may wait for the recorder on either side of their pipe before nothing
            more is sent; what is due then is sent later, and its lag says so.
    """

    database: str
    run_id: str
    trial_id: str
    session_id: int
    arm: str
    tag: str
    items: int
    workload: Workload
    arrivals: Arrivals
    target: Target
    body: Mapping[str, Any]
    salted: bool = False
    retries: Retries = field(default_factory=Retries)
    labels: Labels = field(default_factory=Labels)
    max_connections: int | None = None
    secrets: tuple[str, ...] = ()
    backlog_bytes: int = 64 * 2**20

    def message(self) -> bytes:
        """Return the job for a pipe."""
        return pack(asdict(self))

    @classmethod
    def read(cls, descriptor: int) -> "Job":
        """Read it from the other end."""
        values = unpack(descriptor)
        kinds: dict[str, Callable[..., Any]] = {
            "workload": Workload,
            "arrivals": Arrivals,
            "target": Target,
            "retries": Retries,
            "labels": Labels.of,
        }
        made = {name: kind(**values[name]) for name, kind in kinds.items()}
        return cls(**{**values, **made, "secrets": tuple(values["secrets"])})

    def request_id(self, item: int, attempt: int) -> str:
        """Return what names one sending of one request; also its ``X-Request-Id``."""
        return f"{self.tag}/{item:06d}.a{attempt}"


@dataclass(frozen=True)
class Progress:
    """What is in the database of a trial already.

    Attributes:
        final: Items that have their final row.
        attempts: How often an item was sent so far, where that was at least once.
        answers: Text of the answered ones; only of conversations.
    """

    final: frozenset[int] = frozenset()
    attempts: Mapping[int, int] = field(default_factory=dict)
    answers: Mapping[int, str] = field(default_factory=dict)

    def message(self) -> bytes:
        """Return it for a pipe."""
        return pack([sorted(self.final), list(self.attempts.items()), list(self.answers.items())])

    @classmethod
    def read(cls, descriptor: int) -> "Progress":
        """Read it from the other end."""
        final, attempts, answers = unpack(descriptor)
        return cls(frozenset(final), dict(attempts), dict(answers))


def _descriptors() -> tuple[int, int]:
    """Return the soft limit, and what it can be raised to; no limit is a large one."""
    if resource is None:
        return _MOST_DESCRIPTORS, _MOST_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    known = [_MOST_DESCRIPTORS if value == resource.RLIM_INFINITY else value for value in (soft, hard)]
    return known[0], max(known[0], min(known[1], _MOST_DESCRIPTORS))


def allow_all_descriptors() -> None:
    """Raise this process's soft limit to what the system allows."""
    soft, most = _descriptors()
    if most > soft:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def connections_allowed() -> int:
    """Return how many connections a load generator can have at once."""
    return max(0, _descriptors()[1] - _OTHER_DESCRIPTORS)
