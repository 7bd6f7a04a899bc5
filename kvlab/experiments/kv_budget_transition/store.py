"""Its tables: what goes in before anything is asked, and the scores that follow from the answers."""

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from kvlab import scoring
from kvlab.compression.datasets import Manifest
from kvlab.experiments.kv_budget_transition.plan import Arm
from kvlab.runs.data import RunData
from kvlab.store.database import Database, to_json

#: As SQLite gives it, or as it goes in.
Row = sqlite3.Row | Mapping[str, Any]


def rows_of(manifest: Manifest) -> dict[str, list[dict[str, Any]]]:
    """Return a dataset as rows of datasets, bins, examples and manifest_entries."""
    dataset_id, items = manifest.dataset_id, manifest.items()
    content = manifest.model_dump(mode="json", exclude={"examples", "entries"})
    dataset = {
        "dataset_id": dataset_id,
        "name": manifest.name,
        "task": manifest.task,
        "tokenizer_name": manifest.tokenizer.name,
        "dataset_hash": manifest.dataset_hash,
        "n_bins": manifest.n_bins,
        "manifest_json": to_json(content),
    }
    bins = zip(manifest.bin_edges, manifest.bins, strict=True)
    return {
        "datasets": [dataset],
        "bins": [
            {
                "dataset_id": dataset_id,
                "bin_idx": found.bin_idx,
                "upper_edge_tokens": edge,
                "n_examples": found.chosen,
            }
            for edge, found in bins
        ],
        "examples": [
            {
                "example_id": example.example_id,
                "dataset_id": dataset_id,
                "question": example.question,
                "context": example.context,
                "answers_json": to_json(list(example.answers)),
                "meta_json": to_json(dict(example.meta)),
            }
            for _, example in items
        ],
        "manifest_entries": [
            {
                "dataset_id": dataset_id,
                "example_id": entry.example_id,
                "ordinal": place,
                "bin_idx": entry.bin_idx,
                "token_len": entry.token_len,
            }
            for place, (entry, _) in enumerate(items)
        ],
    }


def manifest_of(sql: sqlite3.Connection) -> Manifest | None:
    """Return the dataset out of a database alone, checked against its own hash; ``None``: it holds none."""
    dataset = sql.execute("SELECT * FROM datasets").fetchone()
    if dataset is None:
        return None
    examples = sql.execute(
        "SELECT x.* FROM examples x JOIN manifest_entries USING (example_id) ORDER BY ordinal"
    )
    return assembled(dataset, sql.execute("SELECT * FROM manifest_entries ORDER BY ordinal"), examples)


def assembled(dataset: Row, entries: Iterable[Row], examples: Iterable[Row]) -> Manifest:
    """Return the dataset of rows as `rows_of` makes them: the same whether they were stored or not."""
    return Manifest.model_validate(
        {
            **json.loads(dataset["manifest_json"]),
            "entries": [
                {name: entry[name] for name in ("example_id", "bin_idx", "token_len")} for entry in entries
            ],
            "examples": [
                {
                    "example_id": example["example_id"],
                    "question": example["question"],
                    "context": example["context"],
                    "answers": json.loads(example["answers_json"]),
                    "meta": json.loads(example["meta_json"]),
                }
                for example in examples
            ],
        }
    )


def ensure_runs(database: Database, run_id: str, chosen: Iterable[Arm]) -> None:
    """Write one row of ``runs`` for each engine setting: the run's own, with policy and budget."""
    known = {row[0] for row in database.sql.execute("SELECT run_id FROM runs")}
    missing = [arm for arm in chosen if f"{run_id}/{arm.run_name}" not in known]
    if not missing:
        return
    with database.transaction():
        for arm in missing:
            database.sql.execute(
                """INSERT OR IGNORE INTO runs SELECT run_id || '/' || ?, experiment_id, engine_name, engine_version,
                base_url, model_name, model_revision, ?, ?, prompt_template_version FROM runs WHERE run_id = ?""",
                (arm.run_name, arm.policy_id, arm.budget, run_id),
            )


_ANSWERS = """
SELECT p.request_id, p.text, p.finish_reason, p.usage_json, p.prompt_tokens, r.target_tokens, x.answers_json, x.meta_json,
       s.scorer
FROM responses p JOIN requests r USING (request_id) JOIN examples x USING (example_id)
LEFT JOIN scores s USING (request_id)
WHERE r.measured = 1
ORDER BY p.request_id
"""


def score(data: RunData, anew: bool = False) -> list[dict[str, Any]]:
    """Return rows of ``scores`` for the answers without a score of this scorer (rules, version, segmenter)."""
    return [
        _scored(row)
        for row in data.sql.execute(_ANSWERS)
        if anew or row["scorer"] != scoring.scorer_name(json.loads(row["meta_json"])["language"])
    ]


def scores(data: RunData) -> dict[str, dict[str, Any]]:
    """Return the rows of ``scores`` of all answers by request: the stored ones that are sound, else new ones."""
    stored = {row["request_id"]: dict(row) for row in data.sql.execute("SELECT * FROM scores")}
    return stored | {row["request_id"]: row for row in score(data)}


def _scored(row: Row) -> dict[str, Any]:
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
    label = None if outcome is None else str(outcome.error_type)
    return {"request_id": row["request_id"], **scored, "outcome": label}
