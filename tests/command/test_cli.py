"""What the commands print and how they end, on folders, databases and disks that are not as they should be."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys

import pytest

from kvlab.command import cli, headless, runner, show
from kvlab.report import build
from kvlab.runs import lock, status
from kvlab.runs.status import Status
from kvlab.store import connect
from kvlab.store.database import Database
from tests.command.tool import kvlab
from tests.golden import stored
from tests.report.test_day import make
from tests.store.test_database import fill, recorded


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["kvlab", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.fixture
def old_run(tmp_path):
    return stored.copy("token_sweep", tmp_path / "2026-01-01" / "run")


EVIL = ["org/model[/b]", "[bold]x", "\\[/]", ":smile:", "[link=http://x]y[/link]"]


@pytest.mark.parametrize("name", EVIL)
def test_a_list_shows_names_as_they_are(monkeypatch, capsys, tmp_path, name):
    make(
        tmp_path / "2026-01-01" / "000000_x",
        json.dumps({"endpoint_identity": {"model": name}}),
    )
    assert run(monkeypatch, "ls", "--outputs", tmp_path) == 0
    assert name in capsys.readouterr().out


def test_a_list_moves_no_cursor(monkeypatch, capsys, tmp_path):
    evil = "\x1b[2J\x1b]0;title\x07\x9b1m\u202e\r\n"
    make(tmp_path / "2026-01-01" / "000000_\x1b[31m\nx", json.dumps({"endpoint_identity": {"model": evil}}),
         json.dumps({"verdict": evil, "headline": evil}))  # fmt: skip
    make(tmp_path / "2026-01-01" / "000001_y", "{}")
    assert run(monkeypatch, "ls", "--outputs", tmp_path) == 0
    printed = capsys.readouterr().out
    assert not set(printed) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}
    assert "000001_y" in printed


def test_lines_of_a_kernel_lose_their_colours_and_keep_their_words(capsys):
    show.say("\x1b[0;31mError\x1b[0m: a\x1b[2Jb\nc\td\x07")
    assert capsys.readouterr().out == "Error: a\\x1b[2Jb\nc\td\\x07\n"


def test_no_line_and_no_error_file_holds_a_key(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://h/v1")
    monkeypatch.setenv("OPENAI_MODEL", "m")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY-0123456789abcdef")
    show._redactor.cache_clear()
    try:
        show.say("it says sk-CANARY-0123456789abcdef and sk-CANARY-01…")
        headless._failed(tmp_path, "ServerError", "Bearer sk-CANARY-0123456789abcdef")
    finally:
        show._redactor.cache_clear()
    assert "sk-C" not in capsys.readouterr().out + (tmp_path / headless.ERROR).read_text()


def test_a_pipe_of_ascii_and_a_reader_that_goes(tmp_path):
    make(tmp_path / "2026-01-01" / "000000_測定", '{"endpoint_identity": {"model": "測"}}')
    found = kvlab("ls", "--outputs", str(tmp_path), PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C")
    assert (found.returncode, found.stderr) == (0, "")
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "kvlab", "ls", "--outputs", str(tmp_path)]
    gone = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert "Traceback" not in gone.stderr


def test_a_damaged_database_is_one_line_or_a_report(monkeypatch, capsys, old_run):
    monkeypatch.setattr(build, "_write_plots", lambda *_: None)  # which takes a second each time
    Database(old_run / "run.sqlite").close()
    good, ends = (old_run / "run.sqlite").read_bytes(), set()
    for seed in range(8):
        draw, data = random.Random(seed), bytearray(good)
        for _ in range(draw.choice([1, 8, 64, 500])):
            data[draw.randrange(len(data))] = draw.randrange(256)
        for path in old_run.glob("run.sqlite*"):
            path.unlink()
        (old_run / "run.sqlite").write_bytes(data[: draw.randrange(len(data))] if seed % 4 == 0 else data)
        ends.add(run(monkeypatch, "report", old_run))
        assert len(capsys.readouterr().err.splitlines()) <= 1
    assert ends <= {0, 2}
    assert 2 in ends


def test_a_run_that_cannot_be_written_in_is_reported_to_another_place(monkeypatch, capsys, old_run, tmp_path):
    before = {path.name: path.read_bytes() for path in old_run.iterdir()}
    access = os.access
    monkeypatch.setattr(
        os,
        "access",
        lambda path, mode: access(path, mode) and not (mode & os.W_OK and str(old_run) in str(path)),
    )
    assert connect.is_read_only(old_run / "run.sqlite")
    assert run(monkeypatch, "report", old_run) == 2
    assert "--to" in capsys.readouterr().err
    assert run(monkeypatch, "report", old_run, "--to", tmp_path / "new" / "place") == 0
    assert (tmp_path / "new" / "place" / "report.html").exists()
    assert {path.name: path.read_bytes() for path in old_run.iterdir()} == before
    assert run(monkeypatch, "report", old_run, "--to", tmp_path / "new" / "place") == 2
    assert "is there already" in capsys.readouterr().err


def test_a_report_to_another_place_that_fails_leaves_nothing_there(monkeypatch, capsys, old_run, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "rebuild", full)
    assert run(monkeypatch, "report", old_run, "--to", tmp_path / "new" / "place") == 1
    assert "no space is left" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    assert run(monkeypatch, "report", old_run, "--to", tmp_path / "file" / "place") == 2
    assert "cannot be made" in capsys.readouterr().err


def test_a_report_of_a_run_under_way_is_no_second_writer(monkeypatch, old_run):
    with lock.locked(old_run):
        assert run(monkeypatch, "report", old_run) == 0
        assert lock.is_locked(old_run)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), sqlite3.OperationalError("database or disk is full")]
)
def test_a_full_disk_is_one_line(monkeypatch, capsys, old_run, error):
    def full(*_):
        raise error

    monkeypatch.setattr(build, "rebuild", full)
    assert run(monkeypatch, "report", old_run) == 1
    line = capsys.readouterr().err
    assert "no space is left" in line
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("what", ["nothing", "empty", "damaged", "run"])
def test_going_on_is_proposed_where_it_would_work(monkeypatch, capsys, tmp_path, what):
    folder = tmp_path / "my runs" / "it's one"
    folder.mkdir(parents=True)
    if what == "damaged":
        (folder / "run.sqlite").write_bytes(b"x" * 5000)
    elif what != "nothing":
        with Database(folder / "run.sqlite", create=True) as database:
            if what == "run":
                fill(database)
                database.record_attempt("r", "t0", [recorded("a")], "done")
    outcome = runner.RunResult(folder, 1, Status.FAILED, "it died")
    monkeypatch.setattr(runner, "run", lambda *_: outcome)
    assert run(monkeypatch, "run", "token_sweep") == 1
    said = capsys.readouterr().err
    assert ("--resume '" in said) == (what == "run")
    if what == "run":
        assert "my runs/it'\"'\"'s one" in said
    else:
        assert "start a new run" in said


def test_a_copied_run_overwrites_no_index_beside_it(monkeypatch, old_run, tmp_path):
    shutil.move(old_run, tmp_path / "elsewhere")
    (tmp_path / "index.html").write_text("mine")
    assert run(monkeypatch, "report", tmp_path / "elsewhere") == 0
    assert (tmp_path / "index.html").read_text() == "mine"


def test_a_killed_run_of_an_archive_is_listed(monkeypatch, capsys, tmp_path):
    make(
        tmp_path / "2026-01-01" / "000000_x",
        "{}",
        "{}",
        '{"status": "running", "pid": 1, "pid_started": 1.0}',
    )

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(status, "write_json", read_only)
    assert run(monkeypatch, "ls", "--outputs", tmp_path) == 0
    assert "interrupted" in capsys.readouterr().out
