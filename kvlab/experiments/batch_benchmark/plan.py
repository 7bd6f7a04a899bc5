"""The trials of a batch benchmark: every strategy at every size, sizes ascending."""

import json
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvlab.errors import InputError
from kvlab.load.descriptors import connections_allowed
from kvlab.records import Trial

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams


@dataclass(frozen=True)
class Planned:
    """One trial: ``size`` requests put by one ``strategy``."""

    strategy: str
    size: int
    repeat: int


def plan(params: "BatchBenchmarkParams") -> list[Trial]:
    """Return the trials; within a size and repeat the strategies come in random order."""
    draw = random.Random(params.seed)  # noqa: S311 - an order, not a secret
    trials: list[Trial] = []
    for size in params.sizes:
        for repeat in range(1, params.repeats + 1):
            for strategy in draw.sample(params.strategies, len(params.strategies)):
                item = Planned(strategy, size, repeat)
                name = f"{strategy}.{size:06d}.r{repeat:02d}"
                trials.append(Trial(name, len(trials), f"{strategy}/{size}", repeat, asdict(item)))
    return trials


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


def trimming(params: "BatchBenchmarkParams") -> tuple[int, int]:
    """Return ``(trim_interval, keep_messages)``: a context-limit run's, where one is named.

    Raises:
        InputError: The file is not one.
    """
    if params.context_limit_summary is None:
        return params.trim_interval, params.keep_messages
    path = params.context_limit_summary
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            "context_limit_summary", path, "is no JSON file; name a run's summary.json"
        ) from None
    found = [_find(content, name) for name in ("trim_interval", "keep_messages")]
    if not all(isinstance(value, int) and value >= 0 for value in found) or found[0] == 0:
        fix = "recommends no TRIM_INTERVAL and KEEP_MESSAGES; name a context-limit run's summary.json"
        raise InputError("context_limit_summary", path, fix)
    return found[0], found[1]


def _find(content: Any, name: str) -> Any:  # noqa: ANN401 - JSON
    """Return the first value of a key, whatever its case, anywhere in nested objects; else ``None``."""
    if not isinstance(content, Mapping):
        return None
    for key, value in content.items():
        if str(key).lower() == name and not isinstance(value, Mapping):
            return value
    return next((found for value in content.values() if (found := _find(value, name)) is not None), None)
