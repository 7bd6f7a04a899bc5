"""Opening a run's database: durable, of the present schema, foreign keys on; to read, from wherever it lies."""

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from kvlab.errors import InputError
from kvlab.store import old

FILE_NAME = "run.sqlite"
#: ``PRAGMA user_version`` of `schema.sql`. Raise it, and teach `kvlab.store.old`, when the schema changes.
VERSION = 7
#: What is raised where a database holds something that kvlab never stores: no JSON, another kind of value, a gap.
_UNEXPECTED = (
    sqlite3.DatabaseError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError,
)  # fmt: skip


def open_database(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open a run's database; one of an earlier schema is brought to the present one.

    WAL with synchronous=FULL: a committed transaction survives a kill and a power cut. Where nothing can be
    written (an archive, another user's folder), a copy in memory is opened: it can be read and queried as
    usual, and what is written into it is gone when it is closed. So a writer passes ``create``, or calls
    `refuse_read_only` first.

    Raises:
        InputError: There is none at ``path`` (and ``create`` is false), it is not one, it is damaged, or ``create``
            is true and it cannot be written.
    """
    if create:
        refuse_read_only(path)
    if not create and not path.is_file():
        raise InputError("run folder", str(path.parent), f"holds no {path.name}; name a run folder")
    connection = None
    try:
        if is_read_only(path):
            connection = _copied(path)
        else:
            connection = sqlite3.connect(path, isolation_level=None, timeout=30)
        connection.execute("PRAGMA foreign_keys=ON")
        bring_up_to_date(connection)  # first: another program's database is refused as it is
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        # After tables were renamed, SQLite reads the schema anew; a checkpoint as the first statement would fail.
        connection.execute("SELECT 1 FROM sqlite_master").fetchall()
    except (sqlite3.DatabaseError, UnicodeError) as error:  # a name in it may be no text
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error) and is_full(error):
            raise
        raise unreadable(path, error) from None
    except BaseException:
        if connection is not None:
            connection.close()
        raise
    connection.row_factory = sqlite3.Row
    return connection


def damage(path: Path) -> str | None:
    """Return what is wrong with a database file, or with the JSON in it; ``None``: nothing is found.

    Takes as long as reading all of it: ask when something else has gone wrong.
    """
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    except sqlite3.Error as error:
        return str(error)
    try:
        found = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
        if found != "ok":
            return found
        tables = [
            str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        for table in tables:
            columns = [str(row[1]) for row in connection.execute(f'PRAGMA table_info("{table}")')]
            for column in columns:
                values = connection.execute(f'SELECT "{column}" FROM "{table}"')  # noqa: S608 - names of its own schema
                for (value,) in values:
                    if column.endswith("_json") and value is not None:
                        json.loads(value)
    except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
        return str(error)
    finally:
        connection.close()
    return None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say in one line that a database is damaged, where what it holds cannot be made sense of.

    What kvlab has stored it can read, so a failure speaks against the file. Where the file itself shows
    nothing, the line names the place that failed, and the failure is its cause: it may be ours.

    Raises:
        InputError: In place of whatever else was raised; a full disk is passed on.
    """
    try:
        yield
    except _UNEXPECTED as error:
        if isinstance(error, sqlite3.Error) and is_full(error):
            raise
        raise unreadable(path, damage(path) or _failure(error)) from error


def _failure(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
    return f"{type(error).__name__}: {str(error)[:200]}{place}"


def unreadable(path: Path, error: object) -> InputError:
    """Return the one line about a database that is damaged, or is none of kvlab's."""
    return InputError("run folder", str(path), f"is not a kvlab database, or damaged ({error}); name another")


def is_full(error: sqlite3.Error) -> bool:
    """Whether an error says that the disk is full, which is no fault of the database."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL or "disk is full" in str(error)


def is_in_use(error: sqlite3.Error) -> bool:
    """Whether an error says that something still reads the database, or holds it."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_read_only(path: Path) -> bool:
    """Whether SQLite could not write ``path``, or the files that it keeps beside it."""
    return path.is_file() and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK))


def refuse_read_only(path: Path) -> None:
    """Refuse to write into a database where nothing can be written: it would all be lost.

    Raises:
        InputError: ``path``, or its folder, is read-only.
    """
    if is_read_only(path):
        fix = "is read-only; copy it to a place that can be written, or write its report with `kvlab report FOLDER --to NEW`"
        raise InputError("run folder", str(path.parent), fix)


def bring_up_to_date(connection: sqlite3.Connection) -> int:
    """Give an empty database the present schema, and an old one, too. Returns the schema's version.

    In one transaction: a kill leaves what was there or a whole schema, and of two processes that find the
    same old database one does it.

    Raises:
        sqlite3.DatabaseError: The database is newer than this kvlab, or is something else.
    """
    if _version(connection) == VERSION:
        return VERSION
    schema = resources.files("kvlab.store").joinpath("schema.sql").read_text(encoding="utf-8")
    with old.renaming(connection):
        version = _version(connection)
        if version == 0:
            if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise sqlite3.DatabaseError("it has tables of another program")
            for statement in old.statements(schema):
                connection.execute(statement)
        elif version in old.VERSIONS:
            old.upgrade(connection, schema)
        elif version != VERSION:
            raise sqlite3.DatabaseError(
                f"its schema {version} is newer than this kvlab's {VERSION}, or no kvlab's at all"
            )
        connection.execute(f"PRAGMA user_version={VERSION}")
    return VERSION


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchall()[0][0])


def _copied(path: Path) -> sqlite3.Connection:
    """Return a copy in memory of a database in a place where nothing can be written.

    A log of what is not yet in the file counts: SQLite reads it only where it can write beside it, so
    both are copied first.
    """
    log = path.with_name(f"{path.name}-wal")
    with tempfile.TemporaryDirectory(prefix="kvlab-") as place:
        uri = f"{path.resolve().as_uri()}?immutable=1"
        if log.is_file() and log.stat().st_size:
            for file in (path, log):
                shutil.copyfile(file, Path(place) / file.name)
            uri = (Path(place) / path.name).as_uri()
        memory = sqlite3.connect(":memory:", isolation_level=None)
        source = sqlite3.connect(uri, uri=True)
        try:
            source.backup(memory)
        except BaseException:
            memory.close()
            raise
        finally:
            source.close()
        return memory
