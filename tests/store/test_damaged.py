"""A database that holds what kvlab never stores: one line for whoever opens it, by whatever door."""

import sqlite3
from contextlib import closing

import pytest

import kvlab as kv
from kvlab.command import runner
from kvlab.errors import InputError
from kvlab.experiments import get
from kvlab.settings import load_settings
from kvlab.store.connect import reading
from kvlab.store.database import Database
from tests.golden import stored


@pytest.fixture
def damaged(tmp_path):
    """Change a stored run behind kvlab's back; returns its folder."""

    def change(statement, *values):
        folder = stored.copy("token_sweep", tmp_path / "2026-01-01" / "run")
        Database(folder / "run.sqlite").close()  # of the present schema first
        with closing(sqlite3.connect(folder / "run.sqlite", isolation_level=None)) as sql:
            sql.execute("PRAGMA ignore_check_constraints=ON")
            sql.execute("PRAGMA foreign_keys=OFF")
            sql.execute(statement, values)
        return folder

    return change


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trials SET planned_json = '[1,2'",
        "UPDATE trials SET planned_json = 'null'",
        "UPDATE telemetry SET token_ns_json = '[[['",
        "UPDATE responses SET usage_json = 'x'",
        "DROP TABLE telemetry",
    ],
)
def test_a_loaded_run_says_so_in_one_line(damaged, statement):
    folder = damaged(statement)
    with pytest.raises(InputError, match="or damaged") as raised:
        kv.load(folder).findings  # noqa: B018 - it is worked out when it is asked for
    assert str(raised.value).count("\n") == 0
    assert raised.value.__cause__ is not None, "where it failed can still be found"


@pytest.mark.parametrize("text", ["[" * 5000, "5", "{", "null"])
def test_a_resume_and_a_load_read_the_parameters_or_say_so(damaged, text):
    folder = damaged("UPDATE experiments SET params_json = ?", text)
    request = runner.Request("token_sweep", resume=folder)
    for read in (
        lambda: kv.load(folder),
        lambda: runner._parameters(request, get("token_sweep"), load_settings()),
    ):
        with pytest.raises(InputError):
            read()


def test_where_the_file_shows_nothing_the_place_that_failed_is_named(tmp_path):
    path = stored.copy("token_sweep", tmp_path / "run") / "run.sqlite"
    with pytest.raises(InputError, match=r"KeyError: 'target_tokens' in test_damaged\.py:\d+"), reading(path):
        {}["target_tokens"]
    with pytest.raises(InputError, match="repeats"), reading(path):
        raise InputError("repeats", 0, "is said in its own words, which stay")
    with pytest.raises(sqlite3.OperationalError, match="disk is full"), reading(path):
        raise sqlite3.OperationalError("database or disk is full")


def test_closing_while_something_still_reads_is_no_failure(tmp_path):
    folder = stored.copy("token_sweep", tmp_path / "run")
    database = Database(folder / "run.sqlite")
    rows = database.sql.execute("SELECT * FROM requests")
    rows.fetchone()
    database.close()
    with Database(folder / "run.sqlite") as again:
        assert again.sql.execute("SELECT count(*) FROM requests").fetchone()[0] > 0
