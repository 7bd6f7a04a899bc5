"""The tables of a batch benchmark."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvlab.experiments.batch_benchmark.estimate import QUANTILES
from kvlab.findings import Table

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]


def sentence(found: Mapping[str, Any], params: "BatchBenchmarkParams") -> str:
    """Return an extrapolation that stands, in words."""
    span = ""
    if found["low_s"] is not None:
        span = f" [{hours(found['low_s'])} to {hours(found['high_s'])}, {params.confidence:.0%}]"
    saved = (
        "savings not provable"
        if found["savings"] is None
        else f"{found['savings']:.1%} of the prompt tokens saved"
    )
    held = found["held_out"]
    checked = f"; checked: {held['requests']:,} requests missed by {held['miss']:+.1%}" if held else ""
    return f"{params.target_requests:,} requests take {hours(found['seconds'])}{span}, {saved}{checked}"


def hours(seconds: float) -> str:
    """Return a time in the unit that reads best."""
    for length, unit in ((86_400.0 * 2, "days"), (3600.0, "h"), (60.0, "min")):
        if seconds >= length:
            return f"{seconds / (86_400.0 if unit == 'days' else length):,.1f} {unit}"
    return f"{seconds:.1f} s"


def rounded(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Return nested JSON with its floats at six significant digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {str(key): rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def flat(cell: Cell) -> dict[str, Any]:
    """Return a trial for ``summary.json``."""
    names = (
        "trial_id", "strategy", "size", "repeat", "state", "why", "answered", "empty", "failed", "sent_again",
        "errors", "attempt_errors", "total_s", "requests_per_s", "steady_requests_per_s", "prompt_tokens", "completion_tokens",
        "completion_tokens_per_s", "ttft_ms", "itl_ms", "latency_ms", "send_lag_ms", "due_to_first_token_ms", "due_to_done_ms",
        "savings", "savings_source", "predicted_savings", "predicted_savings_at_most", "predicted_from", "server_s", "failure_s", "outage_s", "preemptions", "evicted", "generator",
    )  # fmt: skip
    memory = {
        series: {key: value for key, value in usage.items() if key != "used_bytes"}
        for series, usage in cell["memory"].items()
    }
    found: dict[str, Any] = rounded({**{name: cell[name] for name in names}, "memory": memory})
    return found


def tables(
    table: Sequence[Cell], forecasts: Sequence[Mapping[str, Any]], params: "BatchBenchmarkParams"
) -> list[Table]:
    """Return the report's tables, by size and then in the order of the strategies."""
    table = sorted(
        table, key=lambda cell: (cell["size"], params.strategies.index(cell["strategy"]), cell["repeat"])
    )
    return [
        _comparison(table),
        _times(table),
        _due_times(table),
        _failures(table),
        _generator(table),
        _memory(table),
        _forecasts(forecasts, params),
    ]


def _comparison(table: Sequence[Cell]) -> Table:
    rows = []
    for cell in table:
        offered = cell["state"] != "not offered"
        rows.append({
            "strategy": cell["strategy"],
            "requests": cell["size"],
            "answered": cell["answered"] if offered else None,
            "total_s": cell["total_s"],
            "requests_per_s": cell["requests_per_s"],
            "steady_per_s": cell["steady_requests_per_s"],
            "tokens_per_s": cell["completion_tokens_per_s"],
            "savings_pct": percent(cell["savings"]),
            "predicted_pct": percent(cell["predicted_savings"]),
            "at_most_pct": percent(cell["predicted_savings_at_most"]),
            "savings_from": cell["savings_source"] if offered else cell["why"],
        })  # fmt: skip
    note = (
        "Savings: 1 - prompt tokens computed / prompt tokens sent, as the server counts them. Predicted: at least, if "
        "what starts together misses together; at most, if every prefix is computed once. A conversation can find its own answers, too, which is not in it."
    )
    rough = sorted({cell["predicted_from"] for cell in table if cell["predicted_from"] and cell["answered"]})
    note += "".join(f" Predictions: {why}." for why in rough)
    return Table(name="strategies", title="Strategies", rows=rounded(rows), note=note)


def _times(table: Sequence[Cell]) -> Table:
    rows, columns = _quantiles(table, ("ttft", "itl", "latency"))
    return Table(name="times", title="Times of a request", rows=rows, columns=columns, note=_FEW)


def _due_times(table: Sequence[Cell]) -> Table:
    note = (
        "A request that waits for a connection, an outage or another attempt is late for whoever wants its answer. In a "
        "closed loop a request is due when a place is free: only an open one shows what users would wait."
    )
    rows, columns = _quantiles(table, ("due_to_first_token", "due_to_done"))
    return Table(
        name="due_times", title="Times from when a request was due", rows=rows, columns=columns, note=note
    )


_FEW = "A quantile needs five values beyond it: below 10 requests no p50, below 50 no p90, below 500 no p99."


def _quantiles(table: Sequence[Cell], times: Sequence[str]) -> tuple[list[dict[str, Any]], list[str]]:
    """Return each answered trial's quantiles of some times, and the names of the columns."""
    names = {
        (time, q): f"{time.removeprefix('due_to_')}_p{q * 100:.0f}_ms" for time in times for q in QUANTILES
    }
    rows = [
        {
            "strategy": cell["strategy"],
            "requests": cell["size"],
            **{name: cell[f"{time}_ms"][q] for (time, q), name in names.items()},
        }
        for cell in table
        if cell["answered"]
    ]
    return rounded(rows), ["strategy", "requests", *names.values()]


def _failures(table: Sequence[Cell]) -> Table:
    rows = []
    for cell in (found for found in table if found["state"] != "not offered"):
        whole = None if cell["server_s"] is None else cell["server_s"] + cell["failure_s"]
        kinds = ", ".join(f"{name} {count}" for name, count in cell["attempt_errors"].items())
        rows.append({
            "trial": cell["trial_id"],
            **{name: cell[name] for name in ("answered", "empty", "failed", "sent_again")},
            "failed attempts by kind": kinds or None,
            "server_s": cell["server_s"],
            "failure_s": cell["failure_s"],
            "failure_pct": percent(cell["failure_s"] / whole) if whole else None,
            "outage_s": cell["outage_s"],
        })  # fmt: skip
    note = (
        "Request-seconds: what the server worked on answers, and what failed attempts, the waits after them and "
        "outages took. Empty: answers without a token, which the model gave and the server served. outage_s: seconds in which no connection was accepted, and nothing sent."
    )
    return Table(name="failures", title="Server time and failure time", rows=rounded(rows), note=note)


def _generator(table: Sequence[Cell]) -> Table:
    rows = [
        {
            "trial": cell["trial_id"],
            "send_lag_p50_ms": cell["send_lag_ms"][0.5],
            "send_lag_p99_ms": cell["send_lag_ms"][0.99],
            **{name: says[name] for name in ("pass_p50_ms", "pass_p99_ms", "pass_max_ms")},
            "cpu_pct": percent(says["cpu_s"] / says["wall_s"]),
            "connections": says["connections_opened"],
        }
        for cell in table
        if (says := cell["generator"]) is not None
    ]
    return Table(
        name="generator",
        title="Was the generator the bottleneck?",
        evidence=True,
        rows=rounded(rows),
        columns=(
            "trial", "send_lag_p50_ms", "send_lag_p99_ms", "pass_p50_ms", "pass_p99_ms", "pass_max_ms", "cpu_pct",
            "connections",
        ),
        note="The generator's own lag: how long after it was due a request was sent, and how long a pass of its loop "
        "took, which is the most that a stamp can be late.",
    )  # fmt: skip


def _memory(table: Sequence[Cell]) -> Table:
    rows = [
        {
            "trial": cell["trial_id"],
            "series": series,
            **{f"{name}_mib": usage[f"{name}_bytes"] / 2**20 for name in ("baseline", "peak", "end")},
        }
        for cell in table
        for series, usage in cell["memory"].items()
    ]
    columns = ("trial", "series", "baseline_mib", "peak_mib", "end_mib")
    return Table(name="memory", title="Memory of the server", rows=rounded(rows), columns=columns)


def _forecasts(forecasts: Sequence[Mapping[str, Any]], params: "BatchBenchmarkParams") -> Table:
    rows = []
    for found in forecasts:
        held = found["held_out"] or {}
        rows.append({
            "strategy": found["strategy"],
            "held_out": held.get("requests"),
            "predicted_s": held.get("predicted_s"),
            "measured_s": held.get("measured_s"),
            "miss_pct": percent(held.get("miss")),
            "inside": held.get("inside"),
            "target": params.target_requests,
            "hours": in_hours(found.get("seconds")),
            "low_h": in_hours(found.get("low_s")),
            "high_h": in_hours(found.get("high_s")),
            **{name: found.get(name) for name in ("prompt_tokens", "computed_tokens", "completion_tokens", "cost")},
            "refused": "; ".join(found["refused"]) or None,
        })  # fmt: skip
    note = "Held out: the largest size, predicted from the smaller ones alone."
    return Table(name="extrapolation", title="Extrapolation", rows=rounded(rows), note=note)


def percent(share: float | None) -> float | None:
    """Return a share in percent; ``None`` stays unknown."""
    return None if share is None else 100 * share


def in_hours(seconds: float | None) -> float | None:
    """Return a time in hours; ``None`` stays unknown."""
    return None if seconds is None else seconds / 3600
