"""Fuzz of what stands in an outputs folder: result files, run folders, and their databases."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from benchmarks.torture.fuzz import Target, anything, damaged, swapped
from benchmarks.torture.fuzz_home import GOLDEN, command, fresh, json_bytes, silence
from kvlab import experiments
from kvlab.experiments.prefix_hit_miss import plots
from kvlab.settings import load_settings
from kvlab.store.database import Database
from tests.golden import stored


def targets() -> list[Target]:
    """Return what is fuzzed here."""
    damage = st.tuples(st.sampled_from(stored.names()), st.integers(0, 2**32))
    return [
        Target("result files (prefix_hit_miss.plots)", st.lists(_result(), min_size=1, max_size=4), _plots, 400, limit_s=20.0),
        Target("run folders (kvlab ls)", st.lists(_folder(), min_size=1, max_size=4), _listed, 300, limit_s=20.0),
        Target("damaged database (kvlab.load)", damage, _loaded, 300, limit_s=60.0),
        Target("damaged database (kvlab run --resume)", damage, _resumed, 300, limit_s=30.0),
        Target("damaged database (kvlab ls, kvlab report)", damage, _reported, 120, limit_s=90.0),
    ]  # fmt: skip


# Results and run folders ----------------------------------------------------------------------------------

_STATS = {
    "ttft_mean": 20,
    "ttft_stdev": 1,
    "throughput_mean": 166.0,
    "throughput_stdev": 3.0,
    "warmup_time_mean": 90.0,
}
_RESULT = {"phase": "p", "timestamp": "2026-01-01T00:00:00", "config": {"context_size_a": 512, "context_size_b": 256},
           "cache_hit": {"stats": _STATS}, "cache_miss": {"stats": _STATS}}  # fmt: skip


def _result() -> st.SearchStrategy[tuple[str, bytes]]:
    name = st.sampled_from(("results_phase2_a512_b256.json", "results_phase1_x_a512_b256.json", "results_phase_a1_b2.json",
                            "deep/results_phase2_a512_b256.json", f"results_phase{'9' * 90}_a512_b256.json"))  # fmt: skip
    return st.tuples(
        name,
        swapped(_RESULT, anything()).map(json_bytes)
        | damaged(st.just(json_bytes(_RESULT)))
        | st.just(json_bytes(_RESULT)),
    )


def _plots(files: list[tuple[str, bytes]]) -> object:
    from matplotlib import pyplot

    folder = fresh("results")
    for name, data in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    with silence():
        code = plots.main([str(folder)])
    pyplot.close("all")
    assert code in (0, 2)
    return code


_STATUS = {
    "status": "completed",
    "owner": "kvlab run",
    "started_utc": "2026-01-01T00:00:00+00:00",
    "exit_code": 0,
    "reason": None,
}
_SUMMARY = {
    "experiment": "token_sweep",
    "verdict": "PASS",
    "headline": "all well",
    "results": {"n": 3},
    "reasons": ["x"],
}
_RUN_MANIFEST = {
    "experiment": "token_sweep",
    "profile": "smoke",
    "endpoint_identity": {"kind": "vLLM", "model": "m", "version": "1"},
}


def _folder() -> st.SearchStrategy[dict[str, bytes]]:
    def page(good: Any) -> st.SearchStrategy[bytes]:
        return (
            swapped(good, anything()).map(json_bytes)
            | damaged(st.just(json_bytes(good)))
            | anything().map(json_bytes)
        )

    return st.fixed_dictionaries({"status.json": page(_STATUS)},
                                 optional={"summary.json": page(_SUMMARY), "manifest.json": page(_RUN_MANIFEST)})  # fmt: skip


def _listed(folders: list[dict[str, bytes]]) -> object:
    outputs = fresh("outputs")
    for number, files in enumerate(folders):
        folder = outputs / "2026-01-01" / f"00000{number}_x"
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    text = command("ls", "--outputs", str(outputs))
    assert all(f"00000{number}_x" in text for number in range(len(folders))), "one folder hides another"
    from kvlab.report import day

    return day.write_index(outputs / "2026-01-01")


# Databases ------------------------------------------------------------------------------------------------


def _damaged_run(name: str, number: int) -> Path:
    """Return a copy of a stored run whose database is damaged, by the seed."""
    draw = random.Random(number)
    folder = fresh("outputs") / "2026-01-01" / f"000000_{name}_golden"
    folder.mkdir(parents=True)
    for path in (GOLDEN / name).iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    (folder / "status.json").write_bytes(json_bytes(_STATUS))
    path = folder / "run.sqlite"
    if draw.random() < 0.7:
        Database(path).close()  # brings it to the present schema; else it is damaged as a run of former times
    kind = draw.choice(
        ("bits", "bits", "cut", "zeros", "types", "types", "types", "nulls", "rows", "tables", "json", "json")
    )
    if kind in ("bits", "cut", "zeros"):
        data = bytearray(path.read_bytes())
        if kind == "bits":
            first = draw.choice((100, 4096, len(data)))  # the header, the schema, anywhere
            for _ in range(draw.choice((1, 3, 30))):
                data[draw.randrange(min(first, len(data)))] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del data[draw.randrange(len(data)) :]
        else:
            at = draw.randrange(len(data))
            data[at : at + 4096] = bytes(len(data[at : at + 4096]))
        path.write_bytes(data)
    else:
        _wrong(path, kind, draw)
    return folder


_ODD: tuple[Any, ...] = (None, -1, 0, 2**62, -(2**62), 1.5, float("inf"), 1e308, "", "x", "²", "NaN", "\x00", "[1", b"\xff\xfe", b"",
                         "null", "[]", "{}", "5", "[[[]]]", "\x1b[31m", "x" * 5000)  # fmt: skip


def _wrong(path: Path, kind: str, draw: random.Random) -> None:
    """Put values into a database that no kvlab writes."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as sql:
        sql.execute("PRAGMA ignore_check_constraints=ON")
        sql.execute("PRAGMA foreign_keys=OFF")
        tables = [
            row[0]
            for row in sql.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
            )
        ]
        for _ in range(draw.choice((1, 2, 5))):
            table = draw.choice([*tables, "experiments", "experiments", "trials", "sessions"])
            columns = [row[1] for row in sql.execute(f'PRAGMA table_info("{table}")')]
            texts = [name for name in columns if name.endswith("_json")]
            with contextlib.suppress(
                sqlite3.Error
            ):  # a value that even so is refused, or a table that is gone
                if kind == "tables":
                    sql.execute(f'DROP TABLE "{table}"')
                elif kind == "rows":
                    sql.execute(f'DELETE FROM "{table}" WHERE abs(random()) % 3 < {draw.randrange(1, 4)}')
                elif kind == "json" and texts:
                    value = draw.choice(
                        (
                            "null",
                            "[]",
                            "5",
                            '"x"',
                            "{}",
                            "[null]",
                            '{"a":{"b":[]}}',
                            "[1,2",
                            "NaN",
                            "[" * 2000,
                        )
                    )
                    _set_some(sql, table, draw.choice(texts), value, draw)
                else:
                    _set_some(
                        sql, table, draw.choice(columns), None if kind == "nulls" else draw.choice(_ODD), draw
                    )


def _set_some(sql: sqlite3.Connection, table: str, column: str, value: Any, draw: random.Random) -> None:
    some = draw.choice(("1", "rowid = 1", "rowid % 7 = 3"))
    sql.execute(f'UPDATE OR REPLACE "{table}" SET "{column}" = ? WHERE {some}', (value,))


def _loaded(value: tuple[str, int]) -> object:
    import kvlab

    folder = _damaged_run(*value)
    run = kvlab.load(folder)
    try:
        return len(run.requests), run.findings.verdict
    finally:
        run.data.database.close()


def _resumed(value: tuple[str, int]) -> object:
    """Read what a resume starts from: before anything is sent."""
    from kvlab.command import runner

    request = runner.Request(value[0], resume=_damaged_run(*value))
    return runner._parameters(request, experiments.get(value[0]), load_settings())


def _reported(value: tuple[str, int]) -> object:
    from matplotlib import pyplot

    folder = _damaged_run(*value)
    listed = command("ls", "--outputs", str(folder.parent.parent))
    assert folder.name in listed
    try:
        return command("report", str(folder))
    finally:
        pyplot.close("all")
