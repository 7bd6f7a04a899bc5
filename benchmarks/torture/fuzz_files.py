"""Fuzz of what a user's disk holds: parameters, settings, datasets, result files, run folders and their databases."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import shutil
import sqlite3
import string
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from benchmarks.torture.fuzz import Target, anything, damaged, swapped
from benchmarks.torture.place import ROOT
from kvlab import experiments
from kvlab.bounded import MAX_YAML_BYTES
from kvlab.compression.datasets import longbench, manifest, multidoc_qa, rows
from kvlab.errors import KvlabError
from kvlab.experiments.prefix_hit_miss import plots
from kvlab.params import resolve
from kvlab.settings import load_settings
from tests.golden.stored import HERE as GOLDEN

_FOLDER = Path(tempfile.mkdtemp(prefix="kvlab-fuzz-"))


def close() -> None:
    """Take away what was written."""
    shutil.rmtree(_FOLDER, ignore_errors=True)


def names() -> list[str]:
    """Return the experiments whose package can be imported, as `tests` may find them."""
    return sorted(
        path.name for path in GOLDEN.iterdir() if (path / "run.sqlite").is_file() and _imports(path.name)
    )


def _imports(name: str) -> bool:
    try:
        experiments.get(name)
    except ImportError:
        return False
    return True


def targets() -> list[Target]:
    """Return what is fuzzed here."""
    known = names()
    experiment = st.sampled_from(known)
    return [
        Target("params YAML", st.tuples(experiment, experiment.flatmap(_yaml)), _params, 1500),
        Target("--set overrides", st.tuples(experiment, st.lists(_override(known), min_size=1, max_size=3)), _set, 2000),
        Target(".env", damaged(st.just((ROOT / ".env.example").read_bytes() + _ENV)) | _env(), _settings, 2000),
        Target("JSON-lines datasets", st.tuples(_packing(), damaged(st.just(_ROWS)) | _jsonl()), _dataset, 1500),
        Target("dataset manifests", swapped(_MANIFEST, anything()).map(_json) | damaged(st.just(_json(_MANIFEST))), _manifest, 800),
        Target("LongBench config", swapped(_PROMPTS, anything()).map(_json) | damaged(st.just(_json(_PROMPTS))), _config, 800),
        Target("result files (prefix_hit_miss.plots)", st.lists(_result(), min_size=1, max_size=4), _plots, 800, limit_s=20.0),
        Target("run folders (kvlab ls)", st.lists(_folder(), min_size=1, max_size=4), _listed, 300, limit_s=20.0),
        Target("damaged database (kvlab.load)", st.tuples(experiment, st.integers(0, 2**32)), _loaded, 400, limit_s=60.0),
        Target("damaged database (kvlab run --resume)", st.tuples(experiment, st.integers(0, 2**32)), _resumed, 300, limit_s=30.0),
        Target("damaged database (kvlab ls, kvlab report)", st.tuples(experiment, st.integers(0, 2**32)), _reported, 150, limit_s=90.0),
    ]  # fmt: skip


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _file(name: str, data: bytes) -> Path:
    path = _FOLDER / name
    path.write_bytes(data)
    return path


# Parameters and settings ----------------------------------------------------------------------------------


def _yaml(name: str) -> st.SearchStrategy[bytes]:
    files = [path.read_bytes() for path in sorted((ROOT / "params" / name).glob("*.yaml"))]
    values = [yaml.safe_load(data) or {} for data in files]
    changed = st.one_of([swapped(value, anything()) for value in values])
    return damaged(st.sampled_from(files)) | changed.map(
        lambda value: yaml.safe_dump(value, allow_unicode=True).encode(errors="surrogatepass")
    )


def _params(value: tuple[str, bytes]) -> object:
    name, data = value
    assert len(data) < MAX_YAML_BYTES
    found = resolve(experiments.get(name).Params, name, file=_file("p.yaml", data), settings=load_settings())
    _planned(name, found.params)
    return found.params.model_dump_json()


def _override(known: list[str]) -> st.SearchStrategy[str]:
    fields = sorted({field for name in known for field in experiments.get(name).Params.model_fields})
    key = (
        st.sampled_from(fields)
        | st.text(max_size=10)
        | st.sampled_from(("dataset.name", "kv.budgets", "a.b.c", "..", "kv."))
    )
    content = st.text(max_size=20) | anything().map(json.dumps) | st.sampled_from(
        ("[1,2", "{a: 1}", "&a [*a]", "!!python/name:os.system", "2026-99-99", "0x1f", "1e400", "${HOME}", "*", "'", "---\n")
    )  # fmt: skip
    return st.tuples(key, content).map("=".join) | st.text(max_size=20)


def _set(value: tuple[str, list[str]]) -> object:
    name, overrides = value
    found = resolve(experiments.get(name).Params, name, profile="smoke", overrides=overrides, settings=None)
    return _planned(name, found.params)


def _planned(name: str, params: Any) -> object:
    if hasattr(params, "dataset"):  # whose plan is made of a dataset, which takes a model's tokenizer
        return None
    small = getattr(params, "repeats", 1) * len(getattr(params, "token_targets", [1])) < 5000
    return experiments.get(name).plan(params, None) if small else None


_ENV = b"""
OPENAI_BASE_URL=http://x/v1
OPENAI_API_KEY="sk-some-key"
OPENAI_MODEL=m
SCENARIO_TOKEN_TARGETS=4000,8000
REQUEST_TIMEOUT_S=30
KV_BLOCK_SIZE_TOKENS=16
"""


def _env() -> st.SearchStrategy[bytes]:
    keys = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL", "TENSORMESH_USER_ID", "REQUEST_TIMEOUT_S", "MAX_TOKENS",
            "KV_METRIC_RESPONSE_FIELD", "KV_BLOCK_SIZE_TOKENS", "SCENARIO_TOKEN_TARGETS", "SCENARIO_ISOLATION_ID")  # fmt: skip
    url = st.tuples(
        st.sampled_from(("http://", "https://", "ftp://", "http:/", "HTTP://", "")),
        st.text(string.printable + "ä点²\u202e", max_size=20),
        st.sampled_from(
            ("/v1", "/v1/", "", ":99999/v1", ":²/v1", ":0/v1", "[::1]/v1", "@h/v1", "?q=1", "/v1#x")
        ),
    ).map("".join)
    value = (
        st.text(max_size=20)
        | url
        | st.sampled_from(("1", "-1", "nan", "inf", "1e999", "²", "a.b", "1,2,x", "[1,2]"))
    )
    line = st.tuples(st.sampled_from(keys), st.sampled_from(("=", " = ", "='", ':"')), value).map("".join)
    return st.lists(line, max_size=5).map(lambda lines: "\n".join(lines).encode(errors="surrogatepass"))


def _settings(data: bytes) -> object:
    before = {
        key: os.environ.pop(key, None)
        for key in ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL", "TENSORMESH_USER_ID")
    }
    os.environ["KVLAB_ENV_FILE"], kept = str(_file("fuzz.env", data)), os.environ["KVLAB_ENV_FILE"]
    try:
        found = load_settings()
        if found.is_remote:
            from kvlab.endpoints.connect import connect

            connect(found).close()
        return found.redact("what a server says"), found.public()
    finally:
        os.environ["KVLAB_ENV_FILE"] = kept
        os.environ.update({key: value for key, value in before.items() if value is not None})


# Datasets -------------------------------------------------------------------------------------------------

_QA = {
    "question": "Who?",
    "answers": ["Ada"],
    "ctxs": [{"title": "T", "text": "Ada did.", "isgold": True}, {"title": "U", "text": "No."}],
}
_LONG = {
    "input": "Who?",
    "context": "Ada did.",
    "answers": ["Ada"],
    "dataset": "narrativeqa",
    "length": 3,
    "language": "en",
}
_ROWS = b"".join(_json(row) + b"\n" for row in (_QA, _LONG, {**_QA, "question": "Why?"}, _LONG))
_PROMPTS = {"narrativeqa": "Read.\n\n{context}\n\nQuestion: {input}\n\nAnswer:", "qasper": "{context}{input}"}
_MANIFEST = json.loads((GOLDEN / "kv_budget_transition" / "expected" / "dataset_manifest.json").read_text()) if (
    GOLDEN / "kv_budget_transition" / "expected" / "dataset_manifest.json").is_file() else {
    "dataset_id": "d", "tokenizer": "t", "bins": [], "entries": [], "examples": []}  # fmt: skip


class _Words:
    """A tokenizer of words: what a loader needs of one."""

    name = "words"

    def count(self, text: str) -> int:
        return len(text.split())


def _packing() -> st.SearchStrategy[str]:
    return st.sampled_from(("jsonl", "gz", "zip", "damaged gz", "damaged zip"))


def _jsonl() -> st.SearchStrategy[bytes]:
    row = swapped(_QA, anything()) | swapped(_LONG, anything()) | anything()
    return st.lists(row.map(_json), max_size=4).map(b"\n".join)


def _dataset(value: tuple[str, bytes]) -> object:
    packing, data = value
    kind = packing.split()[-1]
    if kind == "gz":
        data = gzip.compress(data)
    elif kind == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data/narrativeqa.jsonl", data)
        data = file.getvalue()
    if packing.startswith("damaged"):
        changed, draw = bytearray(data), random.Random(data)
        for _ in range(3):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        data = bytes(changed)
    path = _file({"jsonl": "narrativeqa.jsonl", "gz": "x.jsonl.gz", "zip": "x.zip"}[kind], data)
    loaded = rows.read(path, "narrativeqa.jsonl")
    found = []
    for read in (
        lambda: list(
            multidoc_qa.examples(
                loaded, [multidoc_qa.Size(tokens=40)], 1, _Words(), gold_position=None, seed=1
            )
        ),  # type: ignore[arg-type]
        lambda: list(longbench.examples("narrativeqa", loaded)),
    ):
        with contextlib.suppress(KvlabError):
            found.append(read())
    return found


def _manifest(data: bytes) -> object:
    return manifest.load(_file("dataset_manifest.json", data))


def _config(data: bytes) -> object:
    _file("dataset2prompt.json", data)
    _file("dataset2maxlen.json", data)
    with contextlib.suppress(KvlabError):
        longbench.generation_length("narrativeqa", _FOLDER)
    return longbench.template("narrativeqa", _FOLDER)


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
        swapped(_RESULT, anything()).map(_json) | damaged(st.just(_json(_RESULT))) | st.just(_json(_RESULT)),
    )


def _plots(files: list[tuple[str, bytes]]) -> object:
    from matplotlib import pyplot

    folder = _fresh("results")
    for name, data in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    with _silence():
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
        return swapped(good, anything()).map(_json) | damaged(st.just(_json(good))) | anything().map(_json)

    return st.fixed_dictionaries({"status.json": page(_STATUS)},
                                 optional={"summary.json": page(_SUMMARY), "manifest.json": page(_RUN_MANIFEST)})  # fmt: skip


def _listed(folders: list[dict[str, bytes]]) -> object:
    outputs = _fresh("outputs")
    for number, files in enumerate(folders):
        folder = outputs / "2026-01-01" / f"00000{number}_x"
        folder.mkdir(parents=True)
        for name, data in files.items():
            (folder / name).write_bytes(data)
    text = _command("ls", "--outputs", str(outputs))
    assert all(f"00000{number}_x" in text for number in range(len(folders))), "one folder hides another"
    from kvlab.report import day

    return day.write_index(outputs / "2026-01-01")


# Databases ------------------------------------------------------------------------------------------------


def _damaged_run(name: str, number: int) -> Path:
    """Return a copy of a stored run whose database is damaged, by the seed."""
    draw = random.Random(number)
    folder = _fresh("outputs") / "2026-01-01" / f"000000_{name}_golden"
    folder.mkdir(parents=True)
    for path in (GOLDEN / name).iterdir():
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    (folder / "status.json").write_bytes(_json(_STATUS))
    path = folder / "run.sqlite"
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
            table = draw.choice(tables)
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
    listed = _command("ls", "--outputs", str(folder.parent.parent))
    assert folder.name in listed
    try:
        return _command("report", str(folder))
    finally:
        pyplot.close("all")


def _command(*arguments: str) -> str:
    """Run the command in this process, with all that it does about errors. Returns what it printed.

    Raises:
        AssertionError: It printed a traceback, or left with a code that it does not have.
    """
    from kvlab.command import cli

    before, sys.argv = sys.argv, ["kvlab", *arguments]
    code: Any = None
    with _silence() as said:
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        finally:
            sys.argv = before
    text = said.getvalue()
    assert "Traceback" not in text, text
    assert code in (0, 1, 2), code
    return text


@contextlib.contextmanager
def _silence():
    """Take what is printed."""
    import warnings

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield said


def _fresh(name: str) -> Path:
    folder = _FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
