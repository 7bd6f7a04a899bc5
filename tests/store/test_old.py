"""Databases of every earlier schema are read and gone on with: the scripts that made them are in ``old/``."""

import sqlite3
from pathlib import Path

import pytest

from kvlab.errors import InputError
from kvlab.records import Trial
from kvlab.store import connect, frames, old
from kvlab.store.database import Database
from tests.store.test_database import fill, record, recorded

SCRIPTS = sorted((Path(__file__).parent / "old").glob("*.sql"))


def of_schema(path: Path, version: int, source: Path) -> Path:
    """Make a database of an earlier schema, with as much of ``source`` as it has room for."""
    sql = sqlite3.connect(path)
    for script in SCRIPTS[:version]:
        sql.executescript(script.read_text())
    sql.execute(f"PRAGMA user_version={version}")
    sql.execute("ATTACH ? AS new", (str(source),))
    for (table,) in sql.execute("SELECT name FROM main.sqlite_master WHERE type = 'table'").fetchall():
        shared = [row[1] for row in sql.execute(f"PRAGMA main.table_info({table})")]
        names = ", ".join(f'"{name}"' for name in shared)
        sql.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM new.{table}")
    sql.commit()
    sql.close()
    return path


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source.sqlite"
    with Database(path, create=True) as database:
        fill(database)
        record(database, "t0", [recorded("a"), recorded("b", "hit", cached=288)], "done")
    return path


def schema_of(path):
    with sqlite3.connect(path) as sql:
        return sorted(sql.execute("SELECT type, name, sql FROM sqlite_master").fetchall())


@pytest.mark.parametrize("version", old.VERSIONS)
def test_an_old_database_is_read_and_gone_on_with(tmp_path, source, version):
    path = of_schema(tmp_path / "run.sqlite", version, source)
    with Database(path) as database, Database(source) as new:
        assert frames.requests(database.sql).equals(frames.requests(new.sql))
        assert database.trial_state() == new.trial_state()
        assert database.claim_attempt("t1") == 1
        database.begin_session("e", "now", 1)
        database.record_attempt("r", "t1", [recorded("c")], "done")
        database.observe("t1", "pause_s", 1.0)
        with pytest.raises(sqlite3.IntegrityError):
            database.sql.execute("UPDATE requests SET run_id = 'nobody'")
    assert schema_of(path) == schema_of(source)


def test_an_old_database_can_be_closed_at_once(tmp_path, source):
    path = of_schema(tmp_path / "run.sqlite", 6, source)
    Database(path).close()
    assert schema_of(path) == schema_of(source)


def test_an_old_archive_is_read_where_nothing_can_be_written(tmp_path, source, monkeypatch):
    path = of_schema(tmp_path / "run.sqlite", 6, source)
    before = path.read_bytes()
    monkeypatch.setattr(connect, "is_read_only", lambda _: True)
    with Database(path) as database:
        assert len(frames.requests(database.sql)) == 2
        assert database.claim_attempt("t1") == 1  # in memory alone
    assert path.read_bytes() == before
    assert not list(tmp_path.glob("run.sqlite-*"))


def test_what_a_killed_writer_left_in_its_log_is_read_in_an_archive(tmp_path, source, monkeypatch):
    writer = sqlite3.connect(source)
    writer.execute("UPDATE trials SET status = 'failed' WHERE trial_id = 't2'")
    writer.commit()
    assert source.with_name("source.sqlite-wal").stat().st_size
    monkeypatch.setattr(connect, "is_read_only", lambda _: True)
    with Database(source) as database:
        assert database.trial_state()["t2"][0] == "failed"
    writer.close()


def test_a_kill_in_the_middle_leaves_the_old_database(tmp_path, source, monkeypatch):
    path = of_schema(tmp_path / "run.sqlite", 6, source)
    before = schema_of(path)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(old, "_columns", killed)
    with pytest.raises(KeyboardInterrupt):
        Database(path)
    assert schema_of(path) == before
    monkeypatch.undo()
    with Database(path) as database:
        assert len(frames.requests(database.sql)) == 2


def test_an_old_database_with_rows_that_hang_in_the_air_is_refused(tmp_path, source):
    path = of_schema(tmp_path / "run.sqlite", 6, source)
    with sqlite3.connect(path) as sql:
        sql.execute("DELETE FROM sessions")
    sql.close()
    with pytest.raises(InputError, match="names what is not in sessions"):
        Database(path)


def test_the_plan_of_an_old_database_is_checked_as_ever(tmp_path, source):
    with Database(of_schema(tmp_path / "run.sqlite", 1, source)) as database:
        database.plan("r", [Trial(f"t{i}", i, "300", i + 1, {"target_tokens": 300}) for i in range(3)])
