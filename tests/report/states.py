"""Runs in every state that a report must survive: measured, nothing measured, nothing proven, a criterion broken, failures."""

import json
import shutil
import sqlite3
from contextlib import closing

from kvlab import experiments
from kvlab.report import build
from tests.golden import stored

#: Tables of a run that was opened, and of which nothing was measured.
OPENED = frozenset(
    {
        "experiments",
        "sessions",
        "runs",
        "trials",
        "schema",
        "datasets",
        "examples",
        "bins",
        "manifest_entries",
    }
)
STATES = ("measured", "empty", "unproven", "fail", "failures")


def _params(**changes):
    def change(sql):
        params = json.loads(sql.execute("SELECT params_json FROM experiments").fetchone()[0])
        sql.execute("UPDATE experiments SET params_json = ?", (json.dumps({**params, **changes}),))

    return change


def _one_was_predicted_wrongly(sql):
    text = sql.execute(
        "SELECT text FROM observations WHERE name = 'outcome' AND trial_id = 'law'"
    ).fetchone()[0]
    outcome = json.loads(text)
    outcome["predicted"] -= 1
    sql.execute("UPDATE observations SET text = ? WHERE text = ?", (json.dumps(outcome), text))


def _more_was_kept(sql):
    sql.execute("UPDATE kv_budgets SET n_planned = n_planned - 7 WHERE budget < 1")


#: What breaks a criterion of each; where none can be broken by so few pairs, there is none.
BROKEN = {
    "token_sweep": _params(ttft_min_reduction_fraction=0.99),
    "context_limit_probe": _params(growth_margin=1e-4),
    "batch_benchmark": _params(memory_limit_bytes=1),
    "cache_laws": _one_was_predicted_wrongly,
    "kv_budget_transition": _more_was_kept,
}


def make(name, state, folder):
    """Return a stored run in a state; its report is not written yet."""
    stored.copy(name, folder)
    with closing(sqlite3.connect(folder / "run.sqlite")) as sql:
        if state == "empty":
            tables = sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                if table not in OPENED:
                    sql.execute(f"DELETE FROM {table}")
            sql.execute("UPDATE trials SET status = 'planned', attempts = 0")
        elif state == "unproven":
            _says_nothing(sql, folder)
        elif state == "failures":
            sql.execute("DELETE FROM responses WHERE rowid % 3 = 0")
            sql.execute(
                "INSERT OR IGNORE INTO failures SELECT request_id, 'TIMEOUT', NULL, 'no answer in 60 s | <b>busy</b>' "
                "FROM requests WHERE request_id NOT IN (SELECT request_id FROM responses)"
            )
        elif state == "fail":
            BROKEN[name](sql)
        sql.commit()
    return folder


def _says_nothing(sql, folder):
    """Let the server say nothing of its cache, in its answers and in its identity."""
    sql.execute(
        "UPDATE responses SET cached_tokens = NULL, cache_state = 'unverified', cache_reason = 'the server says nothing'"
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    facts = manifest.get("endpoint_identity", {}).get("facts", {})
    for fact in ("cached_tokens", "cached_counters", "cache_states"):
        facts[fact] = {"holds": False, "why": "usage.prompt_tokens_details.cached_tokens is not there"}
    manifest["endpoint_identity"]["kind"] = "vLLM"
    (folder / "manifest.json").write_text(json.dumps(manifest))


def cases():
    """Return every experiment in every state that it can be in."""
    return [(n, s) for n in stored.names() for s in STATES if s != "fail" or n in BROKEN]


def reported(name, state, folder):
    """Return a run folder with its report, and the summary."""
    make(name, state, folder)
    return folder, build.rebuild(folder, experiments.get(name))


if __name__ == "__main__":
    import sys
    from pathlib import Path

    place = Path(sys.argv[1])
    for experiment, state in cases():
        shutil.rmtree(place / f"{state}_{experiment}", ignore_errors=True)
        folder, summary = reported(experiment, state, place / f"{state}_{experiment}")
        (folder / "status.json").write_text('{"status": "completed"}')
        print(f"{summary.verdict} {state} {experiment}: {summary.first.sentence}\n   {summary.first.figure.value} "
              f"{summary.first.figure.label}\n   next: {summary.next}")  # fmt: skip
