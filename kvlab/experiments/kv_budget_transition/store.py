"""The tables of a KV-budget transition: what goes in once, what is derived, what is up to date."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from kvlab import __version__, scoring
from kvlab.compression.datasets import Example, Manifest
from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition.arms import Arm
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.findings import Summary
from kvlab.runs.status import utc_now
from kvlab.store.database import Database, to_json

DATASET = "dataset_manifest.json"


def put_manifest(database: Database, manifest: Manifest) -> None:
    """Write datasets, examples, bins and manifest_entries, unless the same are there.

    Raises:
        InputError: The database holds another dataset, or the same one under another tokenizer.
    """
    row = database.sql.execute("SELECT * FROM datasets").fetchone()
    if row is not None:
        _check_same(dict(row), manifest)
        return
    content = manifest.model_dump(mode="json", exclude={"examples", "entries"})
    with database.transaction():
        database.insert(
            "datasets",
            dataset_id=manifest.dataset_id,
            name=manifest.name,
            task=manifest.task,
            tokenizer_name=manifest.tokenizer.name,
            dataset_hash=manifest.dataset_hash,
            n_bins=manifest.n_bins,
            manifest_json=to_json(content),
        )
        _put_bins(database, manifest)
        for ordinal, (entry, example) in enumerate(manifest.items()):
            _put_example(database, manifest.dataset_id, example)
            database.insert(
                "manifest_entries",
                dataset_id=manifest.dataset_id,
                example_id=entry.example_id,
                ordinal=ordinal,
                bin_idx=entry.bin_idx,
                token_len=entry.token_len,
            )


def manifest_of(database: Database) -> Manifest:
    """Return the dataset out of the database alone, checked against its own hash."""
    sql = database.sql
    content = json.loads(sql.execute("SELECT manifest_json FROM datasets").fetchone()[0])
    examples = sql.execute(
        "SELECT x.* FROM examples x JOIN manifest_entries USING (example_id) ORDER BY ordinal"
    )
    entries = sql.execute("SELECT example_id, bin_idx, token_len FROM manifest_entries ORDER BY ordinal")
    return Manifest.model_validate(
        {
            **content,
            "entries": [dict(row) for row in entries],
            "examples": [
                {
                    "example_id": row["example_id"],
                    "question": row["question"],
                    "context": row["context"],
                    "answers": json.loads(row["answers_json"]),
                    "meta": json.loads(row["meta_json"]),
                }
                for row in examples
            ],
        }
    )


def write_manifest(database: Database) -> None:
    """Write ``dataset_manifest.json`` beside the database: enough to ask the same elsewhere."""
    path = database.path.parent / DATASET
    if not path.is_file():
        manifest_of(database).write(path)


def _put_bins(database: Database, manifest: Manifest) -> None:
    for edge, found in zip(manifest.bin_edges, manifest.bins, strict=True):
        database.insert(
            "bins",
            dataset_id=manifest.dataset_id,
            bin_idx=found.bin_idx,
            upper_edge_tokens=edge,
            n_examples=found.chosen,
        )


def _check_same(row: dict[str, Any], manifest: Manifest) -> None:
    now = {
        "dataset_id": manifest.dataset_id,
        "tokenizer_name": manifest.tokenizer.name,
        "dataset_hash": manifest.dataset_hash,
    }
    for field, value in now.items():
        if row[field] != value:
            fix = f"is not that of the run, {row[field]!r}; start a new run"
            raise InputError(f"datasets.{field}", value, fix)


def _put_example(database: Database, dataset_id: str, example: Example) -> None:
    database.insert(
        "examples",
        example_id=example.example_id,
        dataset_id=dataset_id,
        question=example.question,
        context=example.context,
        answers_json=to_json(list(example.answers)),
        meta_json=to_json(dict(example.meta)),
    )


def ensure_runs(database: Database, run_id: str, chosen: Sequence[Arm]) -> None:
    """Write one row of ``runs`` for each engine setting: the run's own, with policy and budget."""
    for arm in chosen:
        database.sql.execute(
            """INSERT OR IGNORE INTO runs SELECT run_id || '/' || ?, experiment_id, engine_name, engine_version,
            base_url, model_name, model_revision, ?, ?, prompt_template_version FROM runs WHERE run_id = ?""",
            (arm.run_name, arm.policy_id, arm.budget, run_id),
        )


def count(database: Database, table: str) -> int:
    """Return the number of rows of one of this package's tables."""
    return int(database.sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - our own names


def describe(database: Database) -> str:
    """Return one line for each bin: its upper edge and how many examples it has."""
    rows = database.sql.execute("SELECT * FROM bins ORDER BY bin_idx").fetchall()
    lines = [
        f"bin {row['bin_idx']}: up to {row['upper_edge_tokens']:,} tokens, {row['n_examples']} examples"
        for row in rows
    ]
    return "\n".join(lines)


_ANSWERS = """
SELECT p.request_id, p.text, p.finish_reason, p.usage_json, p.prompt_tokens, r.target_tokens, x.answers_json, x.meta_json,
       s.scorer
FROM responses p JOIN requests r USING (request_id) JOIN examples x USING (example_id)
LEFT JOIN scores s USING (request_id)
WHERE r.measured = 1
ORDER BY p.request_id
"""


def _unscored(database: Database) -> list[Any]:
    """Return the answers whose score is missing, or of another scorer: rules, version, segmenter."""
    rows = database.sql.execute(_ANSWERS).fetchall()
    return [
        row for row in rows if row["scorer"] != scoring.scorer_name(json.loads(row["meta_json"])["language"])
    ]


def unscored(database: Database) -> int:
    """Return how many answers have no score of this scorer."""
    return len(_unscored(database))


def score(database: Database, *, anew: bool = False) -> tuple[int, int]:
    """Score what has no score of this scorer yet (``anew``: everything). Returns how many were scored, and how many not."""
    rows = database.sql.execute(_ANSWERS).fetchall() if anew else _unscored(database)
    if rows:
        with database.transaction():
            for row in rows:
                database.sql.execute("DELETE FROM scores WHERE request_id = ?", (row["request_id"],))
                database.insert("scores", request_id=row["request_id"], **_scored(row))
    return len(rows), count(database, "scores") - len(rows)


def _scored(row: Any) -> dict[str, Any]:  # noqa: ANN401 - sqlite3.Row
    meta, usage = json.loads(row["meta_json"]), json.loads(row["usage_json"] or "{}")
    found = scoring.score(
        row["text"],
        json.loads(row["answers_json"]),
        meta["language"],
        answer_mode=meta["answer_mode"],
        first_line_only=bool(meta.get("first_line_only")),
    )
    outcome = scoring.classify(
        row["text"],
        row["finish_reason"],
        token_ids=usage.get("completion_token_ids"),
        sent_tokens=row["target_tokens"],
        seen_tokens=row["prompt_tokens"],
        answer_pattern=meta.get("answer_pattern"),
    )
    scored = found._asdict()
    if meta["metric"] == "none":
        scored = {**dict.fromkeys(scored), "scorer": found.scorer}
    return {**scored, "outcome": None if outcome is None else str(outcome.error_type)}


def analysis_inputs(database: Database, params: KVBudgetTransitionParams) -> str:
    """Return the hash of all that an analysis follows from: answers, scores, budgets, times, parameters, kvlab."""
    digest = hashlib.sha256(to_json([__version__, params.model_dump(mode="json")]).encode())
    for table, key in (
        ("scores", "request_id"), ("kv_budgets", "request_id"), ("failures", "request_id"),
        ("telemetry", "request_id"), ("added_budgets", "round"), ("trials", "trial_id"),
    ):  # fmt: skip
        for row in database.sql.execute(f"SELECT * FROM {table} ORDER BY {key}"):  # noqa: S608 - our own names
            digest.update(to_json(list(row)).encode())
    return digest.hexdigest()


def keep_analysis(database: Database, params: KVBudgetTransitionParams, sources: Mapping[str, str]) -> None:
    """Note what the run is analysed with from now on: all that is made of its answers reads it there."""
    row = database.sql.execute("SELECT params_json, sources_json FROM experiments").fetchone()
    known = json.loads(row["sources_json"])
    kept = {**json.loads(row["params_json"]), "analysis": params.analysis.model_dump(mode="json")}
    of_analysis = {name: source for name, source in sources.items() if name.split(".")[0] == "analysis"}
    named = {name: source for name, source in known.items() if name.split(".")[0] != "analysis"} | of_analysis
    now = to_json(kept), to_json(named)
    if now != (row["params_json"], row["sources_json"]):
        with database.transaction():
            database.sql.execute("UPDATE experiments SET params_json = ?, sources_json = ?", now)


def is_done(database: Database, stage: str, inputs: str) -> bool:
    """Whether a stage was done on the same inputs."""
    row = database.sql.execute("SELECT inputs_sha256 FROM stages WHERE name = ?", (stage,)).fetchone()
    return row is not None and row["inputs_sha256"] == inputs


def mark_done(database: Database, stage: str, inputs: str, *, forced: bool = False) -> None:
    """Note that a stage is done on these inputs."""
    with database.transaction():
        mark(database, stage, inputs, forced=forced)


def mark(database: Database, stage: str, inputs: str, *, forced: bool = False) -> None:
    """The same inside a transaction that is open."""
    database.sql.execute(
        "INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?)", (stage, inputs, utc_now(), int(forced))
    )


def stored_summary(database: Database) -> Summary | None:
    """Return what the last analysis found."""
    row = database.sql.execute("SELECT summary_json FROM transition_summary").fetchone()
    return (
        None
        if row is None or row["summary_json"] is None
        else Summary.model_validate_json(row["summary_json"])
    )


def keep_summary(database: Database, summary: Summary, inputs: str, *, forced: bool) -> None:
    """Store the whole summary beside the transition's row, and note that the analysis is done."""
    with database.transaction():
        database.sql.execute("UPDATE transition_summary SET summary_json = ?", (summary.model_dump_json(),))
        mark(database, "analyze", inputs, forced=forced)
