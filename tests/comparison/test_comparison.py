"""What is said of two stored runs whose truth is known."""

import json
import sqlite3

import pytest

import kvlab as kv
from kvlab.comparison import planning, sides, writing
from kvlab.errors import InputError
from kvlab.store.database import Database
from tests.command.tool import kvlab
from tests.comparison import made
from tests.golden import stored

FIELDS = [
    "verdict", "metric", "ratio", "low", "high", "confidence", "method", "pairs", "starts", "margin",
    "false_alarm_rate", "more_pairs_needed", "refused_because",
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return made.run(tmp_path_factory.mktemp("base"), "base", seed=1)


@pytest.mark.parametrize(
    ("factor", "noise", "verdict", "code"),
    [
        (0.8, 0.02, "faster", 0),
        (1.3, 0.02, "slower", 3),
        (1.0, 0.02, "equivalent", 0),
        (1.03, 0.3, "undecided", 4),
    ],
)
def test_the_verdict_is_the_truth(base, tmp_path, factor, noise, verdict, code):
    other = made.run(tmp_path, "other", factor=factor, noise=noise, seed=2)
    found = kv.compare(base, other)
    assert (found.verdict, found.exit_code) == (verdict, code)
    content = found.as_json()
    assert list(content) == FIELDS
    assert content["low"] < content["ratio"] < content["high"]
    assert content["low"] <= factor <= content["high"]
    assert content["pairs"] == 16
    assert content["starts"] == 1
    assert 0 <= content["false_alarm_rate"] < 0.09
    assert (content["more_pairs_needed"] > 0) == (verdict == "undecided")
    assert content["refused_because"] is None


def test_the_same_databases_give_the_same_bytes(base, tmp_path):
    other = made.run(tmp_path, "other", factor=0.9, seed=2)
    texts = []
    for place in ("one", "two"):
        writing.write([kv.compare(base, other)], tmp_path / place)
        texts.append({p.name: p.read_bytes() for p in (tmp_path / place).rglob("*") if p.is_file()})
    assert texts[0] == texts[1]
    assert set(texts[0]) >= {
        "compare.json",
        "compare.html",
        "compare.md",
        "metrics.csv",
        "differences.csv",
        "compare.png",
    }


def test_the_second_is_judged_against_the_first(base, tmp_path):
    other = made.run(tmp_path, "other", factor=0.8, seed=2)
    there, back = kv.compare(base, other).as_json(), kv.compare(other, base).as_json()
    assert (there["verdict"], back["verdict"]) == ("faster", "slower")
    assert there["ratio"] == pytest.approx(1 / back["ratio"], rel=1e-5)


def test_other_metrics_are_corrected_and_the_named_one_is_not(base, tmp_path):
    found = kv.compare(base, made.run(tmp_path, "other", factor=0.8, seed=2))
    assert found.primary.confidence == 0.95
    others = {item.metric: item for item in found.others}
    assert "cold.ttft_ms" in others
    assert all(item.confidence >= 0.95 for item in others.values() if item.low is not None)
    assert max(item.confidence for item in found.others) > 0.98
    assert others["cold.ttft_ms"].outcome in ("equivalent", "undecided")


def test_trials_that_are_not_shared_are_two_samples(base, tmp_path):
    renamed = "PRAGMA foreign_keys = OFF; UPDATE requests SET trial_id = trial_id || 'z'; UPDATE trials SET trial_id = trial_id || 'z';"
    other = made.run(tmp_path, "other", factor=0.7, seed=2, sql=renamed)
    found = kv.compare(base, other)
    assert found.verdict == "faster"
    assert "Welch" in found.primary.effect.method
    assert found.pairs.empty
    writing.write([found], tmp_path / "page")


def test_several_starts_a_side_are_compared_by_start(tmp_path):
    factors = (0.95, 1.0, 1.05, 1.02)
    base = made.run(tmp_path, "base", seed=1, starts=factors)
    other = made.run(tmp_path, "other", factor=0.7, seed=2, starts=factors[::-1])
    found = kv.compare(base, other)
    content = found.as_json()
    assert (content["verdict"], content["starts"]) == ("faster", 4)
    assert found.primary.effect.unit == "starts a side"
    assert content["high"] - content["low"] > 0.05  # as starts differ, and not as pairs do
    assert not any("one start" in line for line in found.weakened)


def test_one_start_says_so(base, tmp_path):
    found = kv.compare(base, made.run(tmp_path, "other", seed=2))
    assert any("one start of its engine" in line for line in found.weakened)


def test_a_date_is_all_its_runs_together(tmp_path, monkeypatch):
    monkeypatch.setenv("KVLAB_OUTPUTS", str(tmp_path))
    for number in range(3):
        made.run(tmp_path, f"a{number}", seed=number)
    (tmp_path / "2026-01-01").rename(tmp_path / "2026-01-02")
    for number in range(3):
        made.run(tmp_path, f"b{number}", factor=0.6, seed=10 + number)
    found = kv.compare("2026-01-02", "2026-01-01")
    assert found.verdict == "faster"
    assert found.starts == 3
    assert found.primary.effect.unit == "runs a side"
    assert any("counts as a start" in line for line in found.weakened)


def test_only_differences_are_shown(base, tmp_path):
    other = made.run(tmp_path, "other", seed=2, contract={"packages": {"vllm": "9.9.9"}})
    kinds = {(item.kind, item.field) for item in kv.compare(base, other).differences}
    assert ("versions", "vllm") in kinds
    assert not [field for kind, field in kinds if kind in ("params", "law", "machine")]


def test_a_metric_named_afterwards_is_said(base, tmp_path):
    other = made.run(tmp_path, "other", seed=2)
    found = kv.compare(base, other, metric="cold.ttft_ms", margin=0.2)
    assert found.named.metric == "cold.ttft_ms"
    assert any("Named after the measuring" in line for line in found.weakened)
    assert not any("Named after" in line for line in kv.compare(base, other).weakened)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"metric": "hit"}, "--metric"), ({"metric": "hit.speed"}, "--metric"), ({"margin": 0}, "--margin"),
        ({"margin": 7}, "--margin"),
    ],
)  # fmt: skip
def test_a_wrong_option_is_one_line(base, tmp_path, options, field):
    with pytest.raises(InputError, match=field):
        kv.compare(base, made.run(tmp_path, "other"), **options)


def test_a_copy_of_a_run_is_the_same_run(base, tmp_path):
    with pytest.raises(InputError, match="both sides"):
        kv.compare(base, base)


@pytest.mark.parametrize("content", ["nothing", "empty", "file"])
def test_what_is_no_run_is_one_line(base, tmp_path, monkeypatch, content):
    monkeypatch.setenv("KVLAB_OUTPUTS", str(tmp_path))
    if content != "nothing":
        (tmp_path / "odd").mkdir()
    if content == "file":
        (tmp_path / "odd" / "run.sqlite").write_bytes(b"no database")
    result = kvlab("compare", str(base), str(tmp_path / "odd"))
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "comparisons").exists()


def test_the_command_writes_the_page_and_says_its_exit_code(base, tmp_path, monkeypatch):
    monkeypatch.setenv("KVLAB_OUTPUTS", str(tmp_path))
    made.run(tmp_path, "other", factor=1.3, seed=2)
    made.run(tmp_path, "third", factor=0.7, seed=3)
    result = kvlab("compare", str(base), "2026-01-01/other", "2026-01-01/third")
    assert result.returncode == 3, result.stderr
    (page,) = tmp_path.glob("comparisons/*/compare.json")
    assert [item["verdict"] for item in json.loads(page.read_text())] == ["slower", "faster"]
    assert "false alarms" in result.stdout


def test_a_hostile_name_does_no_harm(base, tmp_path):
    other = made.run(
        tmp_path, "other", seed=2, contract={"git_commit": "<script>alert(1)</script>|`x` [a](b)"}
    )
    writing.write([kv.compare(base, other)], tmp_path / "page")
    assert "<script>" not in (tmp_path / "page" / "compare.html").read_text()


def test_a_side_reads_the_starts(tmp_path):
    side = sides.find(made.run(tmp_path, "base", starts=(1.0, 1.1)))
    assert (side.starts, side.starts_known) == (2, True)
    side = sides.find(made.run(tmp_path, "plain"))
    assert (side.starts, side.starts_known) == (1, False)


@pytest.mark.parametrize("name", stored.names())
def test_runs_of_every_experiment_can_be_compared(name, tmp_path):
    folders = [stored.copy(name, tmp_path / "2026-01-01" / side) for side in ("a", "b")]
    Database(folders[1] / "run.sqlite").close()
    with sqlite3.connect(folders[1] / "run.sqlite") as db:
        db.execute("UPDATE experiments SET isolation_id = 'another'")
        db.execute(
            "UPDATE telemetry SET first_token_ns = first_token_ns + rowid * 7919 % 997 * 300 WHERE first_token_ns NOT NULL"
        )
    db.close()
    found = kv.compare(*folders)
    assert found.verdict is not None, found
    assert found.others
    own = found.values[0]
    spread = planning.spread(found.first, own)
    if own["point"].nunique() == len(own):  # each alone at its point
        assert spread.within is None
    if found.primary.low is None and found.more_pairs:
        assert "at least" in found.headline
