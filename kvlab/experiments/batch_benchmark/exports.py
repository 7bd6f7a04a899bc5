"""The plan's file, ``performance_benchmarks.json``."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvlab.experiments.batch_benchmark.leaks import AtTarget
from kvlab.experiments.batch_benchmark.tables import in_hours, percent, rounded

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]


def performance_benchmarks(
    table: Sequence[Cell],
    forecasts: Sequence[Mapping[str, Any]],
    memory: AtTarget,
    params: "BatchBenchmarkParams",
    started_utc: str,
) -> str:
    """Return ``performance_benchmarks.json``: the plan's fields, by strategy.

    Missing figures are null: an estimate that is refused has its reasons in ``refused``.
    """
    found = {}
    for strategy in params.strategies:
        made = next(item for item in forecasts if item["strategy"] == strategy)
        cells = [cell for cell in table if cell["strategy"] == strategy]
        peak = max((vram for cell in cells if (vram := peak_bytes(cell)) is not None), default=None)
        found[strategy] = {
            "results": [_result(cell) for cell in cells],
            "extrapolation": {
                "target_requests": params.target_requests,
                "estimated_time_s": made.get("seconds"),
                "estimated_time_low_s": made.get("low_s"),
                "estimated_time_high_s": made.get("high_s"),
                "estimated_hours": in_hours(made.get("seconds")),
                "estimated_requests_per_s": made.get("requests_per_s"),
                "estimated_savings_percent": percent(made.get("savings")),
                "estimated_vram_bytes": None if made["refused"] or memory.reason else peak,
                "vram_refused": memory.reason,
                "refused": made["refused"],
            },
        }
    content = {"started_utc": started_utc, "test_sizes": list(params.sizes), "strategies": found}
    return json.dumps(rounded(content), indent=2) + "\n"


def _result(cell: Cell) -> dict[str, Any]:
    return {
        "num_requests": cell["size"],
        "successful_requests": cell["answered"],
        "failed_requests": cell["failed"],
        "total_time_s": cell["total_s"],
        "requests_per_s": cell["requests_per_s"],
        "tokens_per_s": cell["completion_tokens_per_s"],
        "prompt_tokens": cell["prompt_tokens"],
        "completion_tokens": cell["completion_tokens"],
        "token_savings_percent": percent(cell["savings"]),
        "predicted_savings_percent": percent(cell["predicted_savings"]),
        "vram_bytes": peak_bytes(cell),
    }


def peak_bytes(cell: Cell) -> int | None:
    """Return the most memory that the server took in a trial: the card's, where there is one."""
    series = sorted(cell["memory"], key=lambda name: not name.startswith("nvml_process"))
    return cell["memory"][series[0]]["peak_bytes"] if series else None
