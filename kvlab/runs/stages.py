"""The stages of a run that is done in parts: what each was done from, so that it is done again only when that changes."""

import hashlib
import json

from kvlab import __version__
from kvlab.findings import Summary
from kvlab.params import Params
from kvlab.runs.status import utc_now
from kvlab.store.database import Database, to_json

#: Tables that no analysis reads anew: what is written by one, and the prompts, which are named by their hash in
#: the requests and are most of the bytes. The experiment's own row is represented by the parameters.
_LEFT_OUT = frozenset({"stages", "bin_stats", "transition_summary", "prompts", "experiments"})


def fingerprint(database: Database, params: Params) -> str:
    """Return the hash of all that an analysis follows from: what is stored, the parameters, kvlab's version."""
    digest = hashlib.sha256(to_json([__version__, params.model_dump(mode="json")]).encode())
    names = database.sql.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    )
    for name in [str(row[0]) for row in names]:
        if name in _LEFT_OUT:
            continue
        digest.update(name.encode())
        for row in database.sql.execute(f'SELECT * FROM "{name}" ORDER BY 1, rowid'):  # noqa: S608 - of its own schema
            digest.update(repr(tuple(row)).encode(errors="surrogatepass"))
    return digest.hexdigest()


def is_done(database: Database, stage: str, inputs: str) -> bool:
    """Whether a stage was done on the same inputs."""
    row = database.sql.execute("SELECT inputs_sha256 FROM stages WHERE name = ?", (stage,)).fetchone()
    return row is not None and row["inputs_sha256"] == inputs


def mark_done(
    database: Database, stage: str, inputs: str, *, forced: bool = False, summary: Summary | None = None
) -> None:
    """Note that a stage is done on these inputs, and what it found."""
    text = None if summary is None else summary.model_dump_json()
    with database.transaction():
        database.sql.execute(
            "INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?, ?)",
            (stage, inputs, utc_now(), int(forced), text),
        )


def stored_summary(database: Database, stage: str = "analyze") -> Summary | None:
    """Return what a stage has found; ``None``: it was not done."""
    row = database.sql.execute("SELECT summary_json FROM stages WHERE name = ?", (stage,)).fetchone()
    return None if row is None or row[0] is None else Summary.model_validate_json(row[0])


def keep_analysis(database: Database, params: Params, sources: dict[str, str]) -> None:
    """Note what the run is analysed with from now on: all that is made of its answers reads it there."""
    row = database.sql.execute("SELECT params_json, sources_json FROM experiments").fetchone()
    stored, known = json.loads(row["params_json"]), json.loads(row["sources_json"])
    given = params.model_dump(mode="json", include=set(params.analysis_fields))

    def is_read(name: str) -> bool:
        return name.split(".")[0] in params.analysis_fields

    named = {name: source for name, source in known.items() if not is_read(name)}
    named |= {name: source for name, source in sources.items() if is_read(name)}
    now = to_json({**stored, **given}), to_json(named)
    if now != (row["params_json"], row["sources_json"]):
        with database.transaction():
            database.sql.execute("UPDATE experiments SET params_json = ?, sources_json = ?", now)
