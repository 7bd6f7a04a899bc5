"""``python -m benchmarks``: all benchmarks, a table each, and ``benchmarks/results.json``."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import client_error, load_generator
from kvlab import manifest
from kvlab.files import read_json, write_json
from kvlab.status import utc_now

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--only", choices=PARTS, help="measure one part; the other keeps its stored figures")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    kept = read_json(options.output) if options.only else {}
    found = {name: PARTS[name](options.quick) for name in PARTS if options.only in (None, name)}
    machine = {"machine": manifest.machine(), "packages": manifest.packages()}
    stamped = {name: {"measured_utc": utc_now(), "quick": options.quick} for name in found}
    write_json(
        options.output, {**kept, **machine, "measured": {**kept.get("measured", {}), **stamped}, **found}
    )
    print(f"written: {options.output}")


def _client_error(quick: bool) -> list[dict[str, Any]]:
    plan = {"rounds": 1, "plan": ((1, 3), (200, 1))} if quick else {}
    print("client error: |TTFT measured - TTFT emitted|, fake server, one client process", flush=True)
    rows = client_error.run(**plan)
    Console(width=140).print(_table(rows))
    return rows


def _load_generator(quick: bool) -> list[dict[str, Any]]:
    print("load generator: one process that sends, one that records; fast server", flush=True)
    rows = load_generator.run(1, 0.05) if quick else load_generator.run()
    Console(width=140).print(_load_table(rows))
    return rows


PARTS: dict[str, Callable[[bool], list[dict[str, Any]]]] = {
    "client_error": _client_error, "load_generator": _load_generator,
}  # fmt: skip


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "client",
        "requests/s",
        "n",
        "error p50 ms",
        "p99 ms",
        "p50 by round",
        "there + back p50 ms",
        "lag p50 ms",
    )
    for row in rows:
        error = row["ttft_error_ms"]
        table.add_row(
            row["client"],
            f"{row['rate_per_s']:g}",
            str(row["requests"]),
            f"{error['p50']:.2f}",
            "–" if error["p99"] is None else f"{error['p99']:.2f}",
            ", ".join(f"{value:.2f}" for value in row["ttft_error_p50_ms_by_round"]),
            f"{row['there_ms']['p50']:.2f} + {row['back_ms']['p50']:.2f}",
            f"{row['send_lag_ms']['p50']:.2f}",
        )
    return table


def _load_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(
        "load",
        "requests/s",
        "stored/s",
        "chunks/s",
        "by round",
        "TTFT error p50 ms",
        "p99 ms",
        "send lag p50 ms",
        "p99 ms",
        "CPU",
    )
    for row in rows:
        table.add_row(
            row["case"],
            f"{row['requests_per_s']:,.0f}",
            f"{row['stored_per_s']:,.0f}",
            f"{row['chunks_per_s']:,.0f}",
            ", ".join(f"{value:,.0f}" for value in row["requests_per_s_by_round"]),
            *(
                "–" if row[name] is None else f"{row[name]:.2f}"
                for name in ("error_ms_p50", "error_ms_p99", "send_lag_ms_p50", "send_lag_ms_p99")
            ),
            f"{row['cpu_share']:.0%}",
        )
    return table


if __name__ == "__main__":
    main()
