"""One memory timeline without a run: ``with kv.vram.watch() as memory: …``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kvlab.vram.choose import for_process, for_server, for_this_process
from kvlab.vram.monitor import Monitor, Sample, Usage, usage

if TYPE_CHECKING:
    import pandas as pd


class Watched:
    """What was seen of the memory between the start and the end of a `watch`."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._samples: list[Sample] = []

    @property
    def samples(self) -> list[Sample]:
        """Every reading so far, in order: ``t_ns``, ``series``, ``used_bytes``."""
        self._samples += self._monitor.drain()
        return self._samples

    @property
    def usage(self) -> list[Usage]:
        """Baseline, peak and end in bytes, by series."""
        found = self.samples
        return usage(found, found[0].t_ns, found[-1].t_ns) if found else []

    @property
    def unseen(self) -> dict[str, str]:
        """Why a series is missing, by its name: memory that cannot be seen is unknown, not 0."""
        return self._monitor.reasons()

    def frame(self) -> "pd.DataFrame":
        """Return the readings as a frame: t_s (from the first), series, used_bytes."""
        import pandas as pd  # takes a while

        found = self.samples
        rows = [((s.t_ns - found[0].t_ns) / 1e9, s.series, s.used_bytes) for s in found]
        return pd.DataFrame(rows, columns=["t_s", "series", "used_bytes"])


@contextmanager
def watch(
    pid: int | None = None, *, base_url: str | None = None, interval_s: float = 0.1
) -> Iterator[Watched]:
    """Watch memory while a block runs.

    Args:
        pid: A process of this machine, with its children; ``None``: this process.
        base_url: In place of ``pid``: whatever serves that URL, where it runs on this machine.
        interval_s: Pause between readings in seconds, > 0.
    """
    if base_url is not None:
        samplers = for_server(base_url)
    else:
        samplers = for_this_process() if pid is None else for_process(pid)
    with Monitor(samplers, interval_s=interval_s) as monitor:
        yield Watched(monitor)
