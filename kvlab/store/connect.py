"""Opening a run's database: durable, migrated, foreign keys on."""

import sqlite3
from importlib import resources
from pathlib import Path

from kvlab.errors import InputError

FILE_NAME = "run.sqlite"


def open_database(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """Open a run's database and bring it to the newest schema.

    WAL with synchronous=FULL: a committed transaction survives a kill and a power cut.

    Raises:
        InputError: There is none at ``path`` (and ``create`` is false), or it is not one.
    """
    if not create and not path.is_file():
        raise InputError("run folder", str(path.parent), f"holds no {path.name}; name a run folder")
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        migrate(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise InputError(
            "run folder", str(path), f"is not a kvlab database ({error}); name another"
        ) from None
    connection.row_factory = sqlite3.Row
    return connection


def migrate(connection: sqlite3.Connection) -> int:
    """Apply the numbered migrations that are still missing. Returns the schema's version.

    Raises:
        sqlite3.DatabaseError: The database is newer than this kvlab, or is something else.
    """
    scripts = sorted(
        (item for item in resources.files("kvlab.store").joinpath("migrations").iterdir()),
        key=lambda item: item.name,
    )
    newest = len([item for item in scripts if item.name.endswith(".sql")])
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > newest:
        raise sqlite3.DatabaseError(f"its schema {version} is newer than this kvlab's {newest}")
    for item in scripts:
        number = int(item.name[:4]) if item.name.endswith(".sql") else 0
        if number > version:
            # One transaction a migration: a kill in between leaves a whole schema, old or new.
            script = f"BEGIN IMMEDIATE;\n{item.read_text(encoding='utf-8')}\nPRAGMA user_version={number};\nCOMMIT;"
            connection.executescript(script)
    return newest
