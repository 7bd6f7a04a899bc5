"""Fuzz of what a user writes or brings: parameters, settings, datasets."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import random
import string
import zipfile
from typing import Any

import yaml
from hypothesis import strategies as st

from benchmarks.torture.fuzz import Target, anything, damaged, swapped
from benchmarks.torture.fuzz_home import GOLDEN, file, folder, json_bytes
from benchmarks.torture.place import ROOT
from kvlab import experiments
from kvlab.bounded import MAX_YAML_BYTES
from kvlab.compression.datasets import longbench, manifest, multidoc_qa, rows
from kvlab.errors import KvlabError
from kvlab.params import resolve
from kvlab.settings import load_settings


def targets() -> list[Target]:
    """Return what is fuzzed here."""
    name = st.sampled_from(sorted(experiments.registry()))
    overrides = name.flatmap(lambda n: st.tuples(st.just(n), st.lists(_override(n), min_size=1, max_size=3)))
    return [
        Target("params YAML", name.flatmap(lambda n: st.tuples(st.just(n), _yaml(n))), _params, 1500),
        Target("--set overrides", overrides, _set, 2000),
        Target(".env", damaged(st.just((ROOT / ".env.example").read_bytes() + _ENV)) | _env(), _settings, 2000),
        Target("JSON-lines datasets", st.tuples(_packing(), damaged(st.just(_ROWS)) | _jsonl()), _dataset, 1500),
        Target("dataset manifests", swapped(_MANIFEST, anything()).map(json_bytes) | damaged(st.just(json_bytes(_MANIFEST))), _manifest, 800),
        Target("LongBench config", swapped(_PROMPTS, anything()).map(json_bytes) | damaged(st.just(json_bytes(_PROMPTS))), _config, 800),
    ]  # fmt: skip


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
    found = resolve(experiments.get(name).Params, name, file=file("p.yaml", data), settings=load_settings())
    _planned(name, found.params)
    return found.params.model_dump_json()


def _override(name: str) -> st.SearchStrategy[str]:
    fields = sorted(experiments.get(name).Params.model_fields)
    smoke = resolve(experiments.get(name).Params, name, profile="smoke").params.model_dump(mode="json")
    good = st.sampled_from([f"{field}={json.dumps(value)}" for field, value in smoke.items()])
    key = (
        st.sampled_from(fields)
        | st.text(max_size=10)
        | st.sampled_from(("dataset.name", "kv.budgets", "a.b.c", "..", "kv."))
    )
    content = st.text(max_size=20) | anything().map(json.dumps) | st.sampled_from(
        ("[1,2", "{a: 1}", "&a [*a]", "!!python/name:os.system", "2026-99-99", "0x1f", "1e400", "${HOME}", "*", "'", "---\n")
    )  # fmt: skip
    return good | st.tuples(key, content).map("=".join) | good | st.text(max_size=20)


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
    os.environ["KVLAB_ENV_FILE"], kept = str(file("fuzz.env", data)), os.environ["KVLAB_ENV_FILE"]
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
_ROWS = b"".join(json_bytes(row) + b"\n" for row in (_QA, _LONG, {**_QA, "question": "Why?"}, _LONG))
_PROMPTS = {"narrativeqa": "Read.\n\n{context}\n\nQuestion: {input}\n\nAnswer:", "qasper": "{context}{input}"}
_MANIFEST = json.loads((GOLDEN / "kv_budget_transition" / "expected" / "dataset_manifest.json").read_text())


class _Words:
    """A tokenizer of words: what a loader needs of one."""

    name = "words"

    def count(self, text: str) -> int:
        return len(text.split())


def _packing() -> st.SearchStrategy[str]:
    return st.sampled_from(("jsonl", "gz", "zip", "damaged gz", "damaged zip"))


def _jsonl() -> st.SearchStrategy[bytes]:
    row = swapped(_QA, anything()) | swapped(_LONG, anything()) | anything()
    return st.lists(row.map(json_bytes), max_size=4).map(b"\n".join)


def _dataset(value: tuple[str, bytes]) -> object:
    packing, data = value
    kind = packing.split()[-1]
    if kind == "gz":
        data = gzip.compress(data)
    elif kind == "zip":
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data/narrativeqa.jsonl", data)
        data = packed.getvalue()
    if packing.startswith("damaged"):
        changed, draw = bytearray(data), random.Random(data)
        for _ in range(3):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        data = bytes(changed)
    path = file({"jsonl": "narrativeqa.jsonl", "gz": "x.jsonl.gz", "zip": "x.zip"}[kind], data)
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
    return manifest.load(file("dataset_manifest.json", data))


def _config(data: bytes) -> object:
    file("dataset2prompt.json", data)
    file("dataset2maxlen.json", data)
    with contextlib.suppress(KvlabError):
        longbench.generation_length("narrativeqa", folder())
    return longbench.template("narrativeqa", folder())
