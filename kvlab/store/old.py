"""Reading databases of earlier schemas: the rows move into tables of the present one.

The schemas 1 to 6 grew by tables, by columns that may be empty, and by allowing NULL where there was none
before; so each row of an old database is a row of the present one, and one way of copying serves them all.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

#: The schemas that can be read beside the present one (``PRAGMA user_version``).
VERSIONS = range(1, 7)
_PREFIX = "earlier_"


@contextmanager
def renaming(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction in which tables may be renamed: foreign keys of others go on pointing at the old name."""
    enforced = connection.execute("PRAGMA foreign_keys").fetchall()[0][0]
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute("PRAGMA legacy_alter_table=ON")
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    finally:
        connection.execute("PRAGMA legacy_alter_table=OFF")
        connection.execute(f"PRAGMA foreign_keys={enforced}")


def upgrade(connection: sqlite3.Connection, schema: str) -> None:
    """Bring a database of one of `VERSIONS` to the present schema, inside of `renaming`.

    Raises:
        sqlite3.DatabaseError: It holds what no such schema allows.
    """
    tables = _names(connection, "table")
    for kind in ("trigger", "index"):
        for name in _names(connection, kind):
            connection.execute(f'DROP {kind} "{name}"')
    for name in tables:
        connection.execute(f'ALTER TABLE "{name}" RENAME TO "{_PREFIX}{name}"')
    for statement in statements(schema):
        connection.execute(statement)
    present = set(_names(connection, "table"))
    for name in tables:
        if name not in present:
            raise sqlite3.DatabaseError(f"it has a table {name}, which no kvlab database has")
        old, new = _columns(connection, f"{_PREFIX}{name}"), _columns(connection, name)
        shared = ", ".join(f'"{column}"' for column in old if column in new)
        connection.execute(f'INSERT INTO "{name}" ({shared}) SELECT {shared} FROM "{_PREFIX}{name}"')  # noqa: S608 - names of tables that the schema has, too
        connection.execute(f'DROP TABLE "{_PREFIX}{name}"')
    if broken := connection.execute("PRAGMA foreign_key_check").fetchall():
        raise sqlite3.DatabaseError(f"a row of {broken[0][0]} names what is not in {broken[0][2]}")


def statements(script: str) -> Iterable[str]:
    """Yield the statements of a script one by one, so that they can stand in a transaction of the caller's."""
    part = ""
    for line in script.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            yield part
            part = ""


def _names(connection: sqlite3.Connection, kind: str) -> list[str]:
    """Return the names of what was made by a statement; SQLite's own have none."""
    query = "SELECT name FROM sqlite_master WHERE type = ? AND sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
    return [str(row[0]) for row in connection.execute(query, (kind,)).fetchall()]


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [str(row[1]) for row in connection.execute(f'PRAGMA table_info("{table}")').fetchall()]
