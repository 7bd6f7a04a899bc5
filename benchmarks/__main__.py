"""``python -m benchmarks``: the benchmarks, a table each, and ``benchmarks/results.json``.

Those of `APART` take long, or much of the disk, and run only when they are named (``--only``).
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import (
    anatomy,
    client_error,
    comparison,
    coverage,
    detector,
    kv_sweep,
    laws,
    laws_engine,
    load_generator,
    scale,
)
from kvlab.runs import contract as manifest
from kvlab.runs.files import write_json
from kvlab.runs.status import utc_now

RESULTS = Path(__file__).with_name("results.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it runs")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--only", choices=sorted(PARTS), help="run this one, and keep the others' last results"
    )
    options = parser.parse_args()
    kept = json.loads(options.output.read_text()) if options.output.exists() else {}
    found = {
        name: {"measured_utc": utc_now(), "quick": options.quick, "rows": part(options.quick)}
        for name, part in PARTS.items()
        if options.only == name or (options.only is None and name not in APART)
    }
    facts = {"machine": manifest.machine(), "packages": manifest.packages()}
    write_json(options.output, {**kept, **facts, **found})
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


def _detector(quick: bool) -> dict[str, list[dict[str, Any]]]:
    plan = {"simulations": 50, "cliff_simulations": 10, "draws": 500} if quick else {}
    print("detector: false alarms, power and coverage on answers whose truth is known", flush=True)
    found = detector.run(**plan)
    for table in detector.tables(found):
        Console(width=170).print(table)
    return found


def _scale(quick: bool) -> list[dict[str, Any]]:
    print("scale: 170,000 requests from the generator to the report; fast server", flush=True)
    rows = scale.run((512, 1024), reports=1) if quick else scale.run()
    table = Table("requests", "recorded/s", "database", "kvlab report", "CPU", "peak memory", "verdict")
    for row in rows:
        table.add_row(
            f"{row['requests']:,}",
            f"{row['recorded_per_s']:,.0f}",
            f"{row['database_bytes'] / 1e6:,.0f} MB",
            f"{row['report_s']:.1f} s",
            f"{row['report_cpu_s']:.1f} s",
            f"{row['report_peak_bytes'] / 1e6:,.0f} MB",
            "\n".join([row["verdict"], *row["not_met"]]),
        )
    Console(width=120).print(table)
    return rows


def _anatomy(quick: bool) -> list[dict[str, Any]]:
    print("anatomy: what measuring one pair and finishing a run pass", flush=True)
    rows: list[dict[str, Any]] = anatomy.run()["rows"]
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=120).print(table)
    return rows


PARTS = {
    "anatomy": _anatomy,
    "client_error": _client_error,
    "load_generator": _load_generator,
    "detector": _detector,
    "comparison": comparison.part,
    "coverage": coverage.part,
    "kv_sweep": kv_sweep.part,
    "laws": laws.part,
    "laws_engine": laws_engine.part,
    "scale": _scale,
}
APART = {"laws_engine", "scale"}


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
