"""Tables of what the benchmarks measured, out of their result files."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from markdown_grid import grid

ROOT = Path(__file__).resolve().parents[2]


@cache
def _results(file: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "benchmarks" / file).read_text(encoding="utf-8"))
    return content


def bench(name: str) -> str:
    """Return a table of benchmark results, with the day on which they were measured."""
    if name == "peers":
        part = _results("peers.json")
        table = _peers(part["rows"])
    elif name == "engines":
        part = _results("engines/results.json")
        table = _engines(part["rows"])
    else:
        part = _results("results.json")[name.partition("-")[0]]
        makers = {
            "client_error": _client_error,
            "load_generator": _load_generator,
            "kv_sweep": _kv_sweep,
            "scale": _scale,
            "coverage-intervals": _coverage,
            "coverage-rates": _rates,
            "coverage-memory": _memory,
            "detector": _detector,
        }
        table = makers[name](part["rows"])
    return f"{table}\n\nMeasured {part['measured_utc'][:10]} (UTC)."


def _client_error(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["client"],
            f"{row['rate_per_s']:,}",
            f"{row['requests']:,}",
            f"{row['ttft_error_ms']['p50']:.2f}",
            f"{row['ttft_error_ms']['p99']:.2f}",
        )
        for row in rows
    ]
    return grid(["client", "requests/s", "n", "TTFT error p50, ms", "p99, ms"], cells)


def _load_generator(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["case"],
            f"{row['requests_per_s']:,.0f}",
            f"{row['stored_per_s']:,.0f}",
            f"{row['error_ms_p50']:.2f}",
            f"{row['error_ms_p99']:.2f}",
            f"{row['send_lag_ms_p50']:.2f}",
        )
        for row in rows
    ]
    header = ["load", "requests/s", "stored/s", "TTFT error p50, ms", "p99, ms", "sent late p50, ms"]
    return grid(header, cells)


def _peers(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["server"],
            row["client"],
            f"{row['requests_per_s']:,.0f}",
            f"{row['ttft_error_ms']:+.1f}",
            f"{min(row['requests_per_s_by_round']):,.0f} – {max(row['requests_per_s_by_round']):,.0f}",
        )
        for row in rows
    ]
    return grid(["server", "client", "requests/s", "TTFT error, ms", "rate by round"], cells, left=2)


def _engines(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["engine"],
            "`kvlab doctor`" if row["experiment"] == "doctor" else f"`{row['experiment']}`",
            row["verdict"],
            "–" if row["law"] is None else f"`{row['law']}`",
            row["held_out"] or "–",
            row["pairs"] or "–",
            row["account"].partition(" (")[0],
            f"{row['wall_s']:.0f}",
        )
        for row in rows
    ]
    header = ["server", "what was run", "verdict", "law: cached(L, P)", "predicted", "proven pairs"]
    return grid([*header, "as the server says", "s"], cells, left=4)


def _kv_sweep(rows: dict[str, Any]) -> str:
    cells = [
        ("kvlab", ", ".join(f"{seconds:.1f}" for seconds in rows["kvlab_wall_s"])),
        (
            "kvpress, looped over its ratios",
            ", ".join(f"{seconds:.1f}" for seconds in rows["kvpress_wall_s"]),
        ),
        ("ratio (median)", f"{rows['ratio']['median']:.2f}"),
        ("answers that are equal, token by token", f"{rows['answers_equal']} of {rows['answers']}"),
    ]
    return grid(["", "three rounds, s"], cells)


def _scale(rows: list[dict[str, Any]]) -> str:
    row = rows[0]
    cells = [
        ("recorded", f"{row['recorded_per_s']:,.0f}/s"),
        ("database", f"{row['database_bytes'] / 1e6:,.0f} MB"),
        ("`kvlab report`", f"{row['report_s']:.1f} s, {row['report_peak_bytes'] / 1e6:,.0f} MB at its peak"),
        ("verdict", f"{row['verdict']}: {'; '.join(row['not_met'])}"),
    ]
    return grid([f"{row['requests']:,} requests", "result"], cells, left=2)


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} – {high:.1f}"


def _coverage(rows: dict[str, Any]) -> str:
    """One line a figure and name of its level: how often an interval that was given held the truth."""
    figures: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows["intervals"]:
        for label in row["label"]:
            figures.setdefault((row["figure"], label), []).append(row)
    cells = []
    for (figure, label), found in figures.items():
        worst = min(found, key=lambda row: row["covered"]["rate"])
        covered = _span([100 * row["covered"]["rate"] for row in found])
        cells.append((figure, label, f"{worst['world']}, n = {worst['n']}", len(found), covered))
    header = ["figure", "what the report calls it", "worst world", "worlds × sizes", "covered, %"]
    return grid(header, cells, left=3)


def _rates(rows: dict[str, Any]) -> str:
    claims: dict[str, list[dict[str, Any]]] = {}
    for row in rows["rates"]:
        if row["at_most"] is not None and row["made"]["rate"] is not None:
            claims.setdefault(row["claim"], []).append(row)
    cells = [
        (
            claim,
            len(found),
            f"{min(row['n'] for row in found)} – {max(row['n'] for row in found)}",
            _span([100 * row["made"]["rate"] for row in found]),
            _span([100 * row["at_most"] for row in found]),
        )
        for claim, found in claims.items()
    ]
    return grid(["claim, although it is false", "worlds × sizes", "n", "made, %", "allowed, %"], cells)


def _memory(rows: dict[str, Any]) -> str:
    """One line a server: how often its memory is shown to stay, by how far the target lies."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for row in rows["rates"]:
        claim, _, kind = row["claim"].partition(", of a ")
        if claim == "memory stays":
            world, _, times = row["world"].partition("; target ")
            by_times = found.setdefault((kind.partition(" (")[0], world.replace(" %", "\u00a0%")), {})
            by_times.setdefault(float(times.removesuffix(" times")), []).append(row["made"]["rate"])
    times = sorted({each for by_times in found.values() for each in by_times})
    cells = [
        (*key, *(f"{100 * max(by_times[each]):.1f}" if each in by_times else "" for each in times))
        for key, by_times in found.items()
    ]
    return grid(["server", "world", *(f"{each:g} ×" for each in times)], cells, left=2)


def _detector(rows: dict[str, Any]) -> str:
    sizes = sorted({row["per_bin"] for row in rows["false_alarms"]})
    truths = list(dict.fromkeys(row["truth"] for row in rows["false_alarms"]))
    heights = sorted({row["height"] for row in rows["cliffs"]})

    def line(name: str, found: list[dict[str, Any]], key: str) -> list[str]:
        by_size = [[100 * row[key]["rate"] for row in found if row["per_bin"] == size] for size in sizes]
        return [name, *(_span(values) if values else "–" for values in by_size)]

    cells = []
    for truth in truths:
        found = [row for row in rows["false_alarms"] if row["truth"] == truth]
        words = "no drop" if truth in ("null", None) else f"drop {truth}"
        cells.append(line(f"false alarms, {words}: calibrated rule", found, "either"))
        cells.append(line(f"false alarms, {words}: point rule", found, "point_rule"))
    for height in heights:
        found = [row for row in rows["cliffs"] if row["height"] == height]
        cells.append(line(f"power, cliff of {height:g}", found, "power"))
    header = ["%, by answers in each of 5 bins", *(str(size) for size in sizes)]
    return grid(header, cells)
