"""Writing a run's database: one transaction per trial, and nothing is acknowledged before it commits."""

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from kvlab.errors import KvlabError
from kvlab.machine_load import MachineLoad
from kvlab.records import Recorded, Trial
from kvlab.store.connect import is_full, is_in_use, open_database
from kvlab.timing.clock import Anchor, now_ns


def to_json(value: object) -> str:
    """Return the one text of a JSON value (sorted keys), so that equal values are equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _unless(value: float | None, why: str) -> str | None:
    return why if value is None else None


class Database:
    """The database of one run folder."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        self.sql = open_database(path, create=create)
        self._session: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fold the write-ahead log into the file, so that it can be copied alone, and close.

        On a full disk, or while something still reads, the log stays beside the file; nothing in it is lost.
        """
        try:
            self.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.OperationalError as error:
            if not (is_full(error) or is_in_use(error)):
                raise
        finally:
            self.sql.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, durable on return."""
        self.sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.sql.execute("COMMIT")
        except BaseException:
            if self.sql.in_transaction:  # of a full disk, SQLite has rolled it back itself
                self.sql.execute("ROLLBACK")
            raise

    def insert(self, table: str, **row: Any) -> None:  # noqa: ANN401 - column values
        """Insert one row. ``table`` and the column names are this package's own, never a user's."""
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        self.sql.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))  # noqa: S608

    def begin_session(
        self, experiment_id: str, started_utc: str, pid: int, forced: Sequence[str] = ()
    ) -> None:
        """Record a start or resume, with the anchor of this process's clock."""
        anchor = Anchor.take()
        with self.transaction():
            self.insert(
                "sessions",
                experiment_id=experiment_id,
                started_utc=started_utc,
                anchor_perf_ns=anchor.perf_ns,
                anchor_unix_ns=anchor.unix_ns,
                pid=pid,
                forced_json=to_json(list(forced)),
            )
        self._session = int(self.sql.execute("SELECT max(session_id) FROM sessions").fetchone()[0])

    def plan(self, run_id: str, trials: Sequence[Trial]) -> None:
        """Store the plan. A plan that is there already must be the same one.

        Raises:
            KvlabError: It differs.
        """
        stored = {row["trial_id"]: row["planned_json"] for row in self.sql.execute("SELECT * FROM trials")}
        planned = {trial.trial_id: to_json(trial.planned) for trial in trials}
        if stored and stored != planned:
            raise KvlabError("the plan of this run differs from the one in its database; start a new run")
        if stored:
            return
        with self.transaction():
            for ordinal, trial in enumerate(trials):
                self.insert(
                    "trials",
                    trial_id=trial.trial_id,
                    run_id=run_id,
                    ordinal=ordinal,
                    point=trial.point,
                    repeat=trial.repeat,
                    planned_json=planned[trial.trial_id],
                )

    def trial_state(self) -> dict[str, tuple[str, int]]:
        """Return the status and the number of attempts of every planned trial."""
        rows = self.sql.execute("SELECT trial_id, status, attempts FROM trials")
        return {row["trial_id"]: (row["status"], row["attempts"]) for row in rows}

    def claim_attempt(self, trial_id: str) -> int:
        """Take the next attempt number of a trial, durably, before anything of the attempt is sent.

        A number that was claimed is never given again, whether its attempt was recorded or its process
        was killed: what carries it (markers, salts, request ids) is new to every cache.

        Returns:
            The number, from 1.

        Raises:
            KvlabError: No such trial is planned.
        """
        with self.transaction():
            row = self.sql.execute(
                "UPDATE trials SET status = 'planned', attempts = attempts + 1 WHERE trial_id = ? RETURNING attempts",
                (trial_id,),
            ).fetchone()
        if row is None:
            raise KvlabError(f"trial {trial_id} is not in the plan of this run")
        return int(row[0])

    def observe(
        self,
        trial_id: str | None,
        name: str,
        value: float | None,
        *,
        text: str | None = None,
        request_id: str | None = None,
        t_ns: int | None = None,
    ) -> None:
        """Store something that was seen, durably: a new experiment needs no table of its own.

        Args:
            trial_id: ``None``: of the run as a whole.
            name: What it is, with its unit: ``pause_s``.
            value: A number; ``None`` where it is a text, or where there is none.
            text: The text; beside ``None``, the reason why there is not a number.
            request_id: The request it belongs to, if it is one's.
            t_ns: When, on this process's ``perf_counter``; ``None``: now.

        Raises:
            KvlabError: There is neither a finite number nor a text: what is missing needs a reason.
        """
        number = None if value is None or not math.isfinite(value) else float(value)
        if number is None and text is None:
            raise KvlabError(f"{name} has no value, and no text says why")
        row = {"trial_id": trial_id, "request_id": request_id, "name": name, "value": number, "text": text}
        t_ns = now_ns() if t_ns is None else t_ns
        if self.sql.in_transaction:
            self.insert("observations", session_id=self._session, t_ns=t_ns, **row)
            return
        with self.transaction():
            self.insert("observations", session_id=self._session, t_ns=t_ns, **row)

    def observe_load(self, trial_id: str | None, load: MachineLoad) -> None:
        """Store how busy the machine was with other work during a trial (`kvlab.machine_load`)."""
        why = load.reason or "the system does not say"
        self.observe(trial_id, "foreign_cpu_share", load.foreign_share, text=_unless(load.foreign_share, why))
        self.observe(trial_id, "steal_share", load.steal_share, text=_unless(load.steal_share, why))

    def record_attempt(
        self,
        run_id: str,
        trial_id: str | None,
        rows: Sequence[Recorded],
        status: str,
        load: MachineLoad | None = None,
    ) -> None:
        """Record all requests of one attempt and the trial's new status, in one transaction.

        Args:
            run_id: The engine setting that they ran under.
            trial_id: ``None`` for a warm-up.
            rows: The requests; each becomes a row with its response or failure.
            status: ``done``, ``failed``, or ``planned`` where another attempt follows.
            load: How busy the machine was with other work meanwhile.
        """
        with self.transaction():
            for row in rows:
                self._insert_request(run_id, trial_id, row)
            if load is not None:
                self.observe_load(trial_id, load)
            if trial_id is not None:
                self.sql.execute("UPDATE trials SET status = ? WHERE trial_id = ?", (status, trial_id))

    def join_session(self, session_id: int) -> None:
        """Write for a session that another process has begun."""
        self._session = session_id

    def record_items(self, run_id: str, trial_id: str, rows: Sequence[Recorded]) -> None:
        """Record requests of a trial of many as they come, in one transaction, durable on return."""
        with self.transaction():
            for row in rows:
                self._insert_request(run_id, trial_id, row)

    def set_trial(self, trial_id: str, status: str, load: MachineLoad | None = None) -> None:
        """Record how a trial stands whose requests are recorded on their own."""
        with self.transaction():
            if load is not None:
                self.observe_load(trial_id, load)
            self.sql.execute("UPDATE trials SET status = ? WHERE trial_id = ?", (status, trial_id))

    def begin_tables(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Write the rows that a run begins with, in one transaction, unless they are there."""
        if not tables or self.sql.execute(f"SELECT 1 FROM {next(iter(tables))} LIMIT 1").fetchone():  # noqa: S608 - an experiment's own table
            return
        with self.transaction():
            for table, rows in tables.items():
                for row in rows:
                    self.insert(table, **row)

    def replace_derived(self, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Replace all rows of tables that follow from others, in one transaction; a read-only run keeps its own."""
        with self.transaction():
            for table, rows in tables.items():
                self.sql.execute(f"DELETE FROM {table}")  # noqa: S608 - an experiment's own table
                for row in rows:
                    self.insert(table, **row)

    def add_prompt(self, prompt: Mapping[str, Any]) -> str:
        """Store a prompt's body, once. Returns its name: the SHA-256 of the text of its JSON."""
        body = to_json(prompt)
        sha = hashlib.sha256(body.encode()).hexdigest()
        self.sql.execute("INSERT OR IGNORE INTO prompts VALUES (?, ?)", (sha, body))
        return sha

    def _insert_request(self, run_id: str, trial_id: str | None, row: Recorded) -> None:
        self.insert(
            "requests",
            request_id=row.request_id,
            run_id=row.run_id or run_id,
            session_id=self._session,
            trial_id=trial_id,
            attempt=row.attempt,
            arm=row.arm,
            measured=int(row.measured),
            prompt_sha256=self.add_prompt(row.prompt),
            target_tokens=row.target_tokens,
            decoding_json=to_json(row.decoding),
            sent_utc=row.sent_utc,
            example_id=row.example_id,
            phase=row.phase,
            item=row.item,
            final=None if row.final is None else int(row.final),
        )
        self._insert_telemetry(row)
        for name, value, text in row.measurement.notes:
            self.insert(
                "observations",
                session_id=self._session,
                trial_id=trial_id,
                request_id=row.request_id,
                t_ns=row.measurement.stamps.sent_ns,
                name=name,
                value=value,
                text=text,
            )
        if row.kv is not None:
            kept = {**asdict(row.kv), "n_kept_json": to_json(list(row.kv.n_kept))}
            del kept["n_kept"]
            self.insert("kv_budgets", request_id=row.request_id, **kept)
        if row.measurement.failure is not None:
            failure = row.measurement.failure
            self.insert(
                "failures",
                request_id=row.request_id,
                error_type=str(failure.error_type),
                http_status=failure.http_status,
                message=failure.message,
            )
        else:
            self._insert_response(row)

    def _insert_telemetry(self, row: Recorded) -> None:
        stamps, server = row.measurement.stamps, row.server
        self.insert(
            "telemetry",
            request_id=row.request_id,
            sent_ns=stamps.sent_ns,
            first_byte_ns=stamps.first_byte_ns,
            first_token_ns=stamps.first_token_ns,
            first_content_ns=stamps.first_content_ns,
            last_token_ns=stamps.last_token_ns,
            done_ns=stamps.done_ns,
            token_ns_json=to_json(stamps.token_ns),
            server_queue_ms=server.queue_ms,
            server_prefill_ms=server.prefill_ms,
            server_decode_ms=server.decode_ms,
            server_ttft_ms=server.server_ttft_ms,
            server_reason=server.reason,
            due_ns=row.due_ns,
        )

    def _insert_response(self, row: Recorded) -> None:
        generation, label = row.measurement.generation, row.label
        if generation is None:
            raise KvlabError(f"request {row.request_id} has neither an answer nor a failure")
        usage: Mapping[str, Any] = generation.usage or {}
        self.insert(
            "responses",
            request_id=row.request_id,
            text=generation.text,
            reasoning=generation.reasoning,
            finish_reason=generation.finish_reason,
            http_status=row.measurement.http_status,
            usage_json=None if generation.usage is None else to_json(usage),
            prompt_tokens=row.evidence.prompt_tokens,
            completion_tokens=row.completion_tokens,
            cached_tokens=label.cached_tokens,
            predicted_cached_tokens=label.predicted_tokens,
            shared_tokens=row.shared_tokens,
            cache_state=str(label.state),
            cache_source=label.source,
            cache_reason=label.reason,
            evidence_json=to_json(asdict(row.evidence)),
        )
