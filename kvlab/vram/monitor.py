"""A background thread that reads samplers at a steady pace and knows what that costs."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Self

from kvlab.timing.clock import now_ns
from kvlab.vram.samplers import Sampler


class Sample(NamedTuple):
    """One reading on `kvlab.timing.clock`; see `kvlab.vram.samplers.Reading`."""

    t_ns: int
    series: str
    used_bytes: int
    total_bytes: int | None


@dataclass
class Window:
    """A stretch of time, usually one attempt at a trial; ``end_ns`` is ``None`` until it ends."""

    name: str
    attempt: int
    start_ns: int
    end_ns: int | None = None


@dataclass(frozen=True)
class Usage:
    """One series in one window, in bytes.

    Attributes:
        baseline_bytes: At the window's start.
        peak_bytes: The largest.
        end_bytes: At its end.
        samples: How many readings that is from; the peak between two of them is not seen.
    """

    series: str
    baseline_bytes: int
    peak_bytes: int
    end_bytes: int
    samples: int

    @property
    def delta_bytes(self) -> int:
        """Peak above baseline."""
        return self.peak_bytes - self.baseline_bytes


@dataclass(frozen=True)
class Cost:
    """What sampling cost this process. ``None`` where nothing was read.

    Attributes:
        reads: How often all samplers were read.
        mean_ms: Time a round, on average.
        max_ms: The longest round.
        busy_fraction: Share of the time since the start that went into reading.
    """

    reads: int
    mean_ms: float | None
    max_ms: float | None
    busy_fraction: float | None


class Monitor:
    """Reads samplers every ``interval_s`` in a daemon thread, from `start` (or ``with``) to `stop`.

    Args:
        samplers: What to read; closed by `stop`.
        interval_s: Pause between rounds in seconds, > 0.
    """

    def __init__(self, samplers: Sequence[Sampler], *, interval_s: float = 0.1) -> None:
        self.samplers, self.interval_s = list(samplers), interval_s
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._pending: list[Sample] = []
        self._spent_ns: list[int] = []
        self._began_ns: int | None = None

    def start(self) -> Self:
        """Start the thread; the first round is read before this returns."""
        self._began_ns = now_ns()
        self.read_now()
        self._thread = threading.Thread(target=self._run, name="kvlab-vram", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Read a last round, end the thread and close the samplers. Once is enough."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        self.read_now()
        for sampler in self.samplers:
            sampler.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stop.wait(self.interval_s):
            self.read_now()

    def read_now(self) -> list[Sample]:
        """Read one round, whatever the pace; it becomes part of the timeline."""
        with self._lock:
            start_ns = now_ns()
            found = [Sample(now_ns(), *reading) for sampler in self.samplers for reading in sampler.read()]
            self._spent_ns.append(now_ns() - start_ns)
            self._pending += found
            return found

    @contextmanager
    def window(self, name: str, attempt: int = 1) -> Iterator[Window]:
        """Mark a stretch of time, with a reading at either end."""
        window = Window(name, attempt, now_ns())
        self.read_now()
        try:
            yield window
        finally:
            self.read_now()
            window.end_ns = now_ns()

    def drain(self) -> list[Sample]:
        """Return the samples since the last call, and forget them: they are for the database."""
        with self._lock:
            samples, self._pending = self._pending, []
            return samples

    def reasons(self) -> dict[str, str]:
        """Return why the samplers that see nothing see nothing, by their names."""
        return {sampler.name: sampler.reason for sampler in self.samplers if sampler.reason is not None}

    def cost(self) -> Cost:
        """Return what sampling has cost so far."""
        with self._lock:
            spent = list(self._spent_ns)
        if not spent or self._began_ns is None:
            return Cost(len(spent), None, None, None)
        whole_ns = max(1, now_ns() - self._began_ns)
        return Cost(len(spent), sum(spent) / len(spent) / 1e6, max(spent) / 1e6, sum(spent) / whole_ns)


def usage(samples: Iterable[Sample], start_ns: int, end_ns: int) -> list[Usage]:
    """Return what each series did between two moments; a series without a sample there is left out."""
    inside: dict[str, list[Sample]] = {}
    for sample in sorted(samples):
        if start_ns <= sample.t_ns <= end_ns:
            inside.setdefault(sample.series, []).append(sample)
    return [
        Usage(
            series,
            baseline_bytes=found[0].used_bytes,
            peak_bytes=max(sample.used_bytes for sample in found),
            end_bytes=found[-1].used_bytes,
            samples=len(found),
        )
        for series, found in inside.items()
    ]
