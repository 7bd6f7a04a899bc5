"""A law that was learned once is the measure of every experiment's labels, as long as two requests agree."""

import json

import pytest

from kvlab import api
from kvlab.endpoints import learned
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.openai import open_engine
from kvlab.laws.law import CacheLaw
from kvlab.settings import load_settings

#: As hosted APIs and llama.cpp are: no token ids, no list of tokens, no counters.
BLACK_BOX = {"token_ids": False, "tokenize": False, "metrics": False, "persona": "other"}
LAWS = [
    (CacheLaw(1), {}),
    (CacheLaw(64), {}),
    (CacheLaw(256, tail_grain_tokens=16), {}),
    (CacheLaw(528, grains_off=1), {}),
    (CacheLaw(1, shared_start_tokens=3), BLACK_BOX),
    (CacheLaw(128, 1024), {**BLACK_BOX, "template_prefix_tokens": 20}),
]


def engine():
    return open_engine(load_settings(), lambda _: None)


def taught(law):
    """Open an engine, and keep a law for its server."""
    first = engine()
    first.close()
    assert not first.opening  # nothing was learned, nothing is asked
    assert learned.remember(first.identity, law, {}) is not None
    return first.identity


@pytest.mark.parametrize(("law", "options"), LAWS, ids=lambda v: v.words if isinstance(v, CacheLaw) else None)
def test_a_learned_law_is_held_against_two_requests_and_taken(serving, law, options):
    serving(law, **options)
    taught(law)
    opened = engine()
    opened.close()
    assert opened.identity.law == law
    assert [row.arm for row in opened.opening] == ["law_check_cold", "law_check_repeat"]
    assert not any(row.measured for row in opened.opening)
    assert [str(row.state) for row in opened.opening] == ["cold", "hit"]
    assert opened.identity.can("learned_law")
    assert opened.identity.can("cache_states")


@pytest.mark.parametrize(
    ("said", "real"),
    [
        (CacheLaw(32), CacheLaw(16)),
        (CacheLaw(16), CacheLaw(32)),
        (CacheLaw(128, 1024), CacheLaw(128, 2048)),
        (CacheLaw(64), CacheLaw(64, grains_off=1)),
        (CacheLaw(64, cap_tokens=100), CacheLaw(64)),
        (CacheLaw(1), CacheLaw(1, always_computed_tokens=2)),
    ],
    ids=lambda law: law.words,
)
def test_a_law_that_is_another_one_now_is_dropped_for_the_run_and_said(serving, capsys, said, real):
    serving(real, **BLACK_BOX)
    before = taught(said)
    opened = engine()
    opened.close()
    assert opened.identity.learned_law == before.learned_law
    fact = opened.identity.facts["learned_law"]
    assert fact.holds is False
    assert "is not used in this run" in fact.why
    assert fact.why in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"[]", b"{}", b"x" * 100_000, b"[" * 5000, b'{"format": 1}', b"\xff", None],
    ids=["empty", "cut", "list", "no-format", "long", "deep", "no-law", "no-text", "folder"],
)
def test_a_bad_file_is_one_line_and_the_run_goes_on_without_it(content, capsys):
    identity = Identity(url="http://127.0.0.1:1/v1", model="m")
    path = learned.path_of(identity)
    path.parent.mkdir(parents=True)
    path.mkdir() if content is None else path.write_bytes(content)
    law, bad = learned.recall(identity)
    assert law is None
    assert str(path) in bad
    assert "\n" not in bad


@pytest.mark.parametrize(
    "law", [{"grain_tokens": 0}, {"grain_tokens": "8"}, {"grain_tokens": 8, "x": 1}, {}, [], None]
)
def test_a_law_that_is_none_is_not_taken(law):
    identity = Identity(url="http://127.0.0.1:1/v1", model="m")
    path = learned.remember(identity, CacheLaw(8), {})
    path.write_text(json.dumps(json.loads(path.read_text()) | {"law": law}))
    assert learned.recall(identity)[0] is None
    assert learned.recall(identity)[1]


def test_a_law_is_one_servers_and_one_versions():
    one = Identity(url="http://127.0.0.1:1/v1", model="m", version="1", block_size=16)
    learned.remember(one, CacheLaw(8), {})
    assert learned.recall(one) == (CacheLaw(8), None)
    for change in ({"model": "n"}, {"version": "2"}, {"url": "http://127.0.0.1:2/v1"}, {"block_size": 32}):
        assert learned.recall(one.model_copy(update=change)) == (None, None)


def test_a_folder_that_cannot_be_written_costs_the_law_and_nothing_else(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KVLAB_LAWS", str(tmp_path / "file" / "laws"))
    identity = Identity(url="u", model="m")
    assert learned.remember(identity, CacheLaw(8), {}) is None
    assert "is not kept" in capsys.readouterr().out
    assert learned.recall(identity)[0] is None


def test_what_cache_laws_learns_proves_the_pairs_of_a_token_sweep(serving):
    law, options = LAWS[5]
    server = serving(law, **options)
    sweep = {"token_targets": [1500], "repeats": 2, "position_controls": 0, "max_tokens": 2}
    assert states(sweep) == {("cold", "cold"), ("hit", "partial")}
    run = api.open("cache_laws", {"profile": "default", "max_prompt_tokens": 4096})
    for trial in run.pending():
        run.measure(trial)
    run.close()
    assert states(sweep, server) == {("cold", "cold"), ("hit", "hit")}


def states(params, server=None):
    """Run a token sweep; return each arm with its labels, held against the server's own log."""
    run = api.open("token_sweep", {"profile": "smoke", **params})
    for trial in run.pending():
        run.measure(trial)
    rows = run.requests
    checks = run.database.sql.execute("SELECT measured FROM requests WHERE arm LIKE 'law_check%'").fetchall()
    run.close()
    if server is not None:
        assert [row[0] for row in checks] == [0, 0]
        truth = {one["request_id"]: one["cached_tokens"] for one in server.truth()}
        assert all(truth[row.request_id] == row.cached_tokens for row in rows.itertuples())
    return set(zip(rows["arm"], rows["cache_state"], strict=True))
