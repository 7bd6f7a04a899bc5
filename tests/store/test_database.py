import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from kvlab.endpoints.metrics import ServerView
from kvlab.errors import InputError, KvlabError
from kvlab.evidence import CacheLaw, Evidence, classify
from kvlab.records import Recorded, Trial
from kvlab.store import frames
from kvlab.store.connect import VERSION, open_database
from kvlab.store.database import Database
from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure, Measurement
from kvlab.timing.stamps import STOOD_STILL, Stamps, tpot_ms
from kvlab.timing.stream import Generation

TRIALS = [Trial(f"t{i}", i, "300", i + 1, {"target_tokens": 300}) for i in range(3)]


def recorded(request_id, arm="cold", attempt=1, failure=None, cached=0):
    tokens = (3_000_000, 4_000_000, 7_000_000)
    stamps = Stamps(1_000_000, 2_000_000, 3_000_000, 3_000_000, 7_000_000, 8_000_000, tokens)
    usage = {"prompt_tokens": 300, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": cached}}
    generation = None if failure else Generation(text="x", usage=usage, ended=True)
    evidence = Evidence() if failure else Evidence(300, cached)
    return Recorded(
        request_id=request_id, arm=arm, attempt=attempt, prompt={"prompt": "p"}, decoding={"max_tokens": 3},
        target_tokens=300, sent_utc="2026-01-01T00:00:00+00:00",
        measurement=Measurement(stamps, generation, failure, 200), server=ServerView(), evidence=evidence,
        label=classify(evidence, CacheLaw.whole_blocks(16)),
    )  # fmt: skip


@pytest.fixture
def database(tmp_path):
    with Database(tmp_path / "run.sqlite", create=True) as found:
        fill(found)
        yield found


def fill(found):
    with found.transaction():
        found.insert("experiments", experiment_id="e", name="n", profile="p", params_json="{}", sources_json="{}",
                     contract_json="{}", isolation_id="i", created_utc="now")  # fmt: skip
        found.insert("runs", run_id="r", experiment_id="e", engine_name="x", base_url="u", model_name="m",
                     prompt_template_version="v")  # fmt: skip
    found.begin_session("e", "now", 1)
    found.plan("r", TRIALS)


def record(database, trial_id, rows, status):
    """Claim an attempt and record it, as a session does."""
    database.claim_attempt(trial_id)
    database.record_attempt("r", trial_id, rows, status)


FAILED = Failure(ErrorType.TIMEOUT, "slow", None)


def test_it_is_durable(database):
    assert database.sql.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert database.sql.execute("PRAGMA synchronous").fetchone()[0] == 2
    assert database.sql.execute("PRAGMA foreign_keys").fetchone()[0] == 1


def test_a_trial_is_all_or_nothing(database):
    with pytest.raises(sqlite3.IntegrityError):
        record(database, "t0", [recorded("a"), recorded("a", arm="hit")], "done")
    assert database.sql.execute("SELECT count(*) FROM requests").fetchone()[0] == 0
    assert database.trial_state()["t0"] == ("planned", 1), (
        "the number is taken, whatever became of the attempt"
    )


def test_frame_derives_times_and_marks_the_attempt_that_counts(database):
    record(database, "t0", [recorded("a"), recorded("b", "hit", failure=FAILED)], "planned")
    record(database, "t0", [recorded("c", attempt=2), recorded("d", "hit", 2, cached=288)], "done")
    database.record_attempt("r", None, [replace(recorded("w", "warmup", 0), measured=False)], "done")
    frame = frames.requests(database.sql).set_index("request_id")
    assert sorted(frame.index) == ["a", "b", "c", "d"]
    assert list(frame.loc[["a", "b", "c", "d"], "used"]) == [False, False, True, True]
    assert frame.loc["d", ["ttft_ms", "latency_ms", "tpot_ms"]].tolist() == [2.0, 7.0, 2.0]
    assert frame.loc["d", "cache_state"] == "hit"
    assert frame.loc["b", "error_type"] == "TIMEOUT"
    assert frame["prompt_tokens"].isna()["b"]
    assert frames.integrity(database.sql) == []


@pytest.mark.parametrize(
    ("arrivals", "tokens"),
    [
        (1, 1),
        (2, 2),
        (2, 3),
        (3, 3),
        (4, 5),
        (9, 16),
        (16, 16),
        (15, 16),
        (96, 100),
        (8, 161),
        (161, 8),
        (6, None),
    ],
)
def test_a_time_per_token_is_of_arrivals_that_carried_one_each_or_there_is_none(database, arrivals, tokens):
    row = recorded("a")
    token_ns = tuple(range(5_000_000, 5_000_000 * (arrivals + 1), 5_000_000))
    stamps = replace(
        row.measurement.stamps, token_ns=token_ns, first_token_ns=token_ns[0], last_token_ns=token_ns[-1]
    )
    generation = Generation(text="x", usage={"completion_tokens": tokens}, ended=True)
    record(database, "t0", [replace(row, measurement=Measurement(stamps, generation, None, 200))], "done")
    found = frames.requests(database.sql)["tpot_ms"][0]
    expected = tpot_ms(token_ns, tokens)
    assert expected in (5.0, None)
    assert (None if pd.isna(found) else found) == expected
    assert (expected is None) == (
        (arrivals, tokens) in {(1, 1), (2, 3), (9, 16), (8, 161), (161, 8), (6, None)}
    )


def test_what_else_was_seen_of_a_request_is_observed(database):
    row = recorded("a")
    stamps = replace(row.measurement.stamps, untimed="all at once")
    measurement = replace(row.measurement, stamps=stamps, reconnects=1, client_stall_ms=80.0)
    record(database, "t0", [replace(row, measurement=measurement)], "done")
    found = database.sql.execute(
        "SELECT trial_id, request_id, name, value, text FROM observations ORDER BY name"
    )
    assert [tuple(line) for line in found] == [
        ("t0", "a", "client_stall_ms", 80.0, None),
        ("t0", "a", "reconnects", 1.0, None),
        ("t0", "a", "untimed", None, "all at once"),
    ]


def test_an_end_that_was_seen_late_gives_no_latency_and_a_buffered_one_does(database):
    late = replace(recorded("a").measurement.stamps, untimed=f"{STOOD_STILL} for 900 ms", late=True)
    held = replace(recorded("b").measurement.stamps, untimed="the stream is buffered", token_ns=())
    assert (late.latency_ms, held.latency_ms) == (None, 7.0)
    rows = [
        replace(recorded(name, arm), measurement=replace(recorded(name).measurement, stamps=stamps))
        for name, arm, stamps in (("a", "cold", late), ("b", "hit", held), ("c", "again", recorded("c").measurement.stamps))
    ]  # fmt: skip
    record(database, "t0", rows, "done")
    frame = frames.requests(database.sql).set_index("request_id")
    assert frame["latency_ms"].isna().to_dict() == {"a": True, "b": False, "c": False}
    assert frame["untimed"].dropna().to_dict() == {"a": late.untimed, "b": held.untimed}
    assert frame["done_ns"].notna().all()


def test_a_request_never_has_both_an_answer_and_a_failure(database):
    record(database, "t0", [recorded("a")], "done")
    record(database, "t1", [recorded("b", failure=FAILED)], "failed")
    for table, row in (("failures", {"request_id": "a", "error_type": "X", "message": "m"}),
                       ("responses", {"request_id": "b", "text": "", "reasoning": "", "shared_tokens": 0,
                                      "cache_state": "cold", "cache_reason": "", "evidence_json": "{}"})):  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError, match="this request"):
            database.insert(table, **row)


def test_a_request_with_neither_is_refused_and_would_be_found(database):
    broken = recorded("a")
    broken = replace(broken, measurement=Measurement(broken.measurement.stamps, None, None, 200))
    with pytest.raises(KvlabError, match="neither"):
        record(database, "t0", [broken], "done")
    record(database, "t0", [recorded("b")], "done")
    database.sql.execute("DELETE FROM responses")
    assert frames.integrity(database.sql) == ["1 requests with neither a response nor a failure"]


def test_another_plan_is_refused(database):
    database.plan("r", TRIALS)
    with pytest.raises(KvlabError, match="differs"):
        database.plan("r", TRIALS[:2])


def test_an_empty_database_has_an_empty_frame(database):
    frame = frames.requests(database.sql)
    assert list(frame.columns) == list(frames.REQUEST_COLUMNS)
    assert len(frame) == 0


@pytest.mark.parametrize("content", [None, b"not a database at all, but long enough to look like one" * 20])
def test_what_is_no_database_is_one_line(tmp_path, content):
    path = tmp_path / "run.sqlite"
    if content:
        path.write_bytes(content)
    with pytest.raises(InputError, match="run folder"):
        open_database(path)
    assert path.exists() == bool(content)


def test_a_newer_schema_is_refused(tmp_path):
    path = tmp_path / "run.sqlite"
    with Database(path, create=True) as database:
        database.sql.execute(f"PRAGMA user_version={VERSION + 1}")
    with pytest.raises(InputError, match="newer"):
        open_database(path)


def test_another_programs_database_is_refused_as_it_is(tmp_path):
    path = tmp_path / "run.sqlite"
    with sqlite3.connect(path) as sql:
        sql.execute("CREATE TABLE theirs (a)")
    sql.close()
    before = path.read_bytes()
    for version in (0, 3):
        with sqlite3.connect(path) as sql:
            sql.execute(f"PRAGMA user_version={version}")
        sql.close()
        before = path.read_bytes()
        with pytest.raises(InputError, match="not a kvlab database"):
            open_database(path, create=True)
        assert path.read_bytes() == before


def test_an_attempt_is_claimed_for_ever(database):
    assert [database.claim_attempt("t0"), database.claim_attempt("t0"), database.claim_attempt("t1")] == [
        1,
        2,
        1,
    ]
    with Database(database.path) as other:  # durable: another process sees it
        assert other.trial_state()["t0"] == ("planned", 2)
        assert other.claim_attempt("t0") == 3
    with pytest.raises(KvlabError, match="not in the plan"):
        database.claim_attempt("nobody")


def test_what_is_observed_comes_back_in_order(database):
    record(database, "t0", [recorded("a")], "done")
    database.observe("t0", "pause_s", 1.5, t_ns=20)
    database.observe("t0", "pause_s", None, text="the server does not say", t_ns=10, request_id="a")
    database.observe(None, "engine", float("nan"), text="x")
    assert len(frames.observations(database.sql)) == 3
    found = frames.observations(database.sql, "pause_s")
    assert found["t_ns"].tolist() == [10, 20]
    assert found["value"].isna().tolist() == [True, False]
    assert found["request_id"].isna().tolist() == [False, True]
    with pytest.raises(KvlabError, match="no value"):
        database.observe("t0", "pause_s", float("inf"))
    with pytest.raises(sqlite3.IntegrityError):
        database.observe("no trial", "pause_s", 1.0)


def test_what_was_acknowledged_survives_sigkill(tmp_path):
    path = tmp_path / "run.sqlite"
    code = (
        "import sys; from pathlib import Path; from kvlab.store.database import Database\n"
        "from tests.store.test_database import fill, record, recorded\n"
        f"d = Database(Path({str(path)!r}), create=True); fill(d)\n"
        "for i in range(3):\n"
        "    record(d, f't{i}', [recorded(f'q{i}')], 'done'); print(i, flush=True)\n"
        "import time; time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [int(process.stdout.readline()) for _ in range(3)]
        os.kill(process.pid, signal.SIGKILL)
    with Database(path) as database:
        assert len(frames.requests(database.sql)) == len(seen) == 3
        assert frames.integrity(database.sql) == []
