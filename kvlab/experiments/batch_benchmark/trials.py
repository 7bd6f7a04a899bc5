"""The trials of a batch benchmark: every strategy at every size, sizes ascending."""

import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from kvlab.errors import InputError
from kvlab.load.job import connections_allowed
from kvlab.records import Trial

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams


@dataclass(frozen=True)
class Planned:
    """One trial: ``size`` requests sent by one ``strategy``."""

    strategy: str
    size: int
    repeat: int


def trials(params: "BatchBenchmarkParams") -> list[Trial]:
    """Return the trials; within a size and repeat the strategies come in random order."""
    draw = random.Random(params.seed)  # noqa: S311 - an order, not a secret
    found: list[Trial] = []
    for size in params.sizes:
        for repeat in range(1, params.repeats + 1):
            for strategy in draw.sample(params.strategies, len(params.strategies)):
                item = Planned(strategy, size, repeat)
                name = f"{strategy}.{size:06d}.r{repeat:02d}"
                planned = asdict(item)
                found.append(Trial(name, f"{strategy}/{size}", repeat, planned, commit="each", requests=size))
    return found


def check_connections(params: "BatchBenchmarkParams") -> None:
    """Refuse more requests in flight than this system gives a process file descriptors.

    Raises:
        InputError: Naming the parameter that asks for them.
    """
    closed = params.mode == "closed" and {"conversation", "shared_prefix", "isolated"} & {*params.strategies}
    fields = ["concurrency"] if closed else []
    fields += ["concurrent_start_at_most"] if "concurrent_start" in params.strategies else []
    allowed = connections_allowed()
    for field in fields:
        wanted = min(getattr(params, field), max(params.sizes), params.max_connections or 10**9)
        if wanted > allowed:
            fix = (
                f"would open {wanted:,} connections, and this system lets a process open {allowed:,}; "
                "lower it, set max_connections, or raise the hard limit (ulimit -Hn)"
            )
            raise InputError(field, getattr(params, field), fix)
