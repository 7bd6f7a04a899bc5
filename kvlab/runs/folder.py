"""The run folder: created once, never overwritten, resumed only under the same contract."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kvlab.endpoints.connect import Identity
from kvlab.errors import InputError
from kvlab.escape import file_name
from kvlab.runs import contract as manifest
from kvlab.runs.files import read_json, write_json
from kvlab.runs.status import utc_now
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.connect import reading, unreadable
from kvlab.store.database import Database, to_json

MANIFEST = "manifest.json"
SUMMARY = "summary.json"


def check_outputs(outputs: Path) -> None:
    """Refuse early what `new_folder` would refuse after a server has been started for nothing.

    Raises:
        InputError: No folder can be made there.
    """
    nearest = next(path for path in (outputs, *outputs.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        why = "not writable" if nearest.is_dir() else "not a folder"
        raise InputError(
            "--outputs", str(outputs), f"cannot hold run folders ({nearest} is {why}); name another"
        )


def new_folder(outputs: Path, experiment: str, profile: str) -> Path:
    """Create and return ``outputs/YYYY-MM-DD/HHMMSS_<experiment>_<profile>/``, new in every case.

    Raises:
        InputError: It cannot be created there.
    """
    now = datetime.now()
    name = f"{now:%H%M%S}_{experiment}_{file_name(profile)}"
    try:
        day = outputs / f"{now:%Y-%m-%d}"
        day.mkdir(parents=True, exist_ok=True)
        for suffix in ("", *(f"-{i}" for i in range(2, 1000))):
            try:
                (day / f"{name}{suffix}").mkdir()
            except FileExistsError:
                continue
            return (day / f"{name}{suffix}").resolve()
    except OSError as error:
        raise InputError(
            "--outputs", str(outputs), f"cannot hold a run folder ({error.strerror}); name another"
        ) from None
    raise InputError("--outputs", str(outputs), "holds a thousand runs of this second; wait one")


def list_folders(outputs: Path) -> list[Path]:
    """Return all run folders, oldest first."""
    return sorted(path.parent for path in outputs.glob("*/*/status.json"))


@dataclass
class Run:
    """An open run: its folder, its database, and what binds its sessions together.

    Attributes:
        isolation_id: Goes into every prompt's marker; given, or made for this run.
        session_id: Which start or resume this is; no two share a marker.
    """

    folder: Path
    database: Database
    experiment_id: str
    profile: str
    run_id: str
    isolation_id: str
    session_id: int
    resumed: bool

    @classmethod
    def start(
        cls,
        folder: Path,
        *,
        experiment: str,
        profile: str,
        contract: Mapping[str, Any],
        params: Mapping[str, Any],
        sources: Mapping[str, str],
        identity: Identity,
        isolation_id: str | None,
        force: bool = False,
    ) -> "Run":
        """Open a run in ``folder``: a new one, or the one whose database is there.

        One that was only prepared (`draft`) has a contract without an engine: it is completed.

        Raises:
            InputError: The contract differs from that of the run to resume, and ``force`` is false.
        """
        path = folder / DATABASE
        resumed = path.exists()
        forced: list[str] = []
        drafted = False
        if resumed:
            with Database(path) as old:
                stored, drafted = experiment_row(old)["contract"], _is_draft(old)
            agreed = {key: contract[key] for key in stored if key in contract} if drafted else contract
            forced = manifest.check_same(stored, agreed, force=force)
        database = Database(path, create=True)
        experiment_id = f"{folder.parent.name}/{folder.name}"
        template = str(contract["prompt_template_hash"])
        # One transaction: a database that exists either names its experiment, or is not a run yet.
        if not resumed:
            with database.transaction():
                _insert_experiment(
                    database, experiment_id, experiment, profile, contract, params, sources, isolation_id
                )
                _insert_run(database, experiment_id, identity, template)
        elif drafted:
            with database.transaction():
                database.sql.execute("UPDATE experiments SET contract_json = ?", (to_json(contract),))
                _insert_run(database, experiment_id, identity, template)
        row = experiment_row(database)
        database.begin_session(row["experiment_id"], utc_now(), os.getpid(), forced)
        session = int(database.sql.execute("SELECT max(session_id) FROM sessions").fetchone()[0])
        run_id = database.sql.execute("SELECT run_id FROM runs ORDER BY rowid").fetchone()[0]
        run = cls(
            folder,
            database,
            row["experiment_id"],
            row["profile"],
            run_id,
            row["isolation_id"],
            session,
            resumed,
        )
        run.write_manifest(identity)
        return run

    @staticmethod
    def draft(
        folder: Path,
        *,
        experiment: str,
        profile: str,
        contract: Mapping[str, Any],
        params: Mapping[str, Any],
        sources: Mapping[str, str],
        isolation_id: str | None,
    ) -> None:
        """Make the database of a run whose engine is not known yet."""
        with Database(folder / DATABASE, create=True) as database, database.transaction():
            name = f"{folder.parent.name}/{folder.name}"
            _insert_experiment(database, name, experiment, profile, contract, params, sources, isolation_id)

    def write_manifest(self, identity: Identity) -> None:
        """Write ``manifest.json`` out of the database: the contract, the sessions, what the server proves."""
        row = experiment_row(self.database)
        sessions = self.database.sql.execute(
            "SELECT started_utc, forced_json FROM sessions ORDER BY session_id"
        )
        write_json(
            self.folder / MANIFEST,
            {
                "experiment_id": row["experiment_id"],
                "experiment": row["name"],
                "profile": row["profile"],
                "created_utc": row["created_utc"],
                "isolation_id": row["isolation_id"],
                "contract": row["contract"],
                "params_sources": row["sources"],
                "endpoint_identity": identity.model_dump(mode="json"),
                "sessions": [dict(session) for session in sessions],
            },
        )

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def stored_experiment(folder: Path) -> dict[str, Any]:
    """Return what the database of a run folder says about its experiment.

    Keys: experiment_id, name, profile, params, sources, contract, isolation_id, created_utc, identity.

    Raises:
        InputError: The folder is not a run folder, or its database is damaged.
    """
    with reading(folder / DATABASE), Database(folder / DATABASE) as database:
        return experiment_row(database)


def experiment_row(database: Database) -> dict[str, Any]:
    """Return what an open database says about its experiment; keys as `stored_experiment`.

    Raises:
        InputError: It holds no experiment, or one that cannot be read.
    """
    row = database.sql.execute("SELECT * FROM experiments").fetchone()
    if row is None:
        raise InputError("run folder", str(database.path.parent), "holds an empty database; start a new run")
    found = dict(row)
    for key in ("params", "sources", "contract"):
        try:
            found[key] = json.loads(found.pop(f"{key}_json"))
        except (ValueError, TypeError, RecursionError) as error:
            raise unreadable(database.path, f"{key}_json: {error}") from None
        if not isinstance(found[key], dict):
            raise unreadable(database.path, f"{key}_json is not a JSON object")
    return found


def _is_draft(database: Database) -> bool:
    """Whether no engine has been opened for it yet."""
    return database.sql.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is None


def _insert_experiment(
    database: Database,
    experiment_id: str,
    experiment: str,
    profile: str,
    contract: Mapping[str, Any],
    params: Mapping[str, Any],
    sources: Mapping[str, str],
    isolation_id: str | None,
) -> None:
    database.insert(
        "experiments",
        experiment_id=experiment_id,
        name=experiment,
        profile=profile,
        params_json=to_json(params),
        sources_json=to_json(sources),
        contract_json=to_json(contract),
        isolation_id=isolation_id or secrets.token_hex(8),
        created_utc=utc_now(),
    )


def _insert_run(database: Database, experiment_id: str, identity: Identity, template: str) -> None:
    database.insert(
        "runs",
        run_id=f"{experiment_id}#1",
        experiment_id=experiment_id,
        engine_name=identity.kind,
        engine_version=identity.version,
        base_url=identity.url,
        model_name=identity.model,
        model_revision=identity.revision,
        prompt_template_version=template,
    )


def identity_of(folder: Path) -> Identity | None:
    """Return what answered, out of a run's manifest."""
    content = read_json(folder / MANIFEST).get("endpoint_identity")
    return Identity.model_validate(content) if content else None
