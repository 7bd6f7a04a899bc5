"""Two configurations in turns, on servers whose difference is known."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from benchmarks.servers.process import FakeServer
from kvlab.api import open_configuration as opened
from kvlab.command import interleaving
from kvlab.comparison import ab, interleave
from kvlab.errors import InputError
from kvlab.records import Trial
from kvlab.stats.anytime import Bets
from tests.command.tool import kvlab

SET = {
    "token_targets": [200], "repeats": 2, "max_tokens": 2, "manual_sections": 30, "position_controls": 0,
    "compare_margin": 0.2,
}  # fmt: skip


def configuration(server, **changes):
    values = {
        "experiment": "token_sweep", "profile": "smoke", "set": SET,
        "endpoint": {"base_url": server.base_url, "model": "fake", "api_key_env": "AB_KEY"}, **changes,
    }  # fmt: skip
    return ab.Configuration.model_validate(values)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("AB_KEY", "EMPTY")


class Simulated:
    """A session whose times are drawn: what `interleave.run` asks of one."""

    def __init__(self, factor, seed, count=60):
        self.trials = tuple(Trial(f"t{k:03}", "p", k, {"control": k == 3}) for k in range(count))
        self.factor, self.rng, self.rows, self.asked = factor, np.random.default_rng(seed), [], []

    def measure(self, trial):
        self.asked.append(trial.trial_id)
        ms = 100 * self.factor * math.exp(0.05 * self.rng.standard_normal())
        times = {"ttft_ms": ms, "latency_ms": ms, "tpot_ms": 1.0, "sent_ns": 0, "done_ns": 1, "item": None}
        self.rows.append(
            {"trial_id": trial.trial_id, "point": "p", "arm": "hit", "used": True, "status": "ok", **times}
        )

    def data(self):
        return type("Data", (), {"requests": pd.DataFrame(self.rows)})()


@pytest.mark.parametrize(("factor", "verdict"), [(1.3, "slower"), (0.7, "faster"), (1.0, "equivalent")])
def test_it_stops_as_soon_as_it_can_be_said(factor, verdict):
    bets, sides = Bets(0.1), (Simulated(1.0, 1), Simulated(factor, 2))
    made = list(interleave.run(sides, "hit.ttft_ms", bets, size=1, seed=7, say=lambda _: None))
    assert bets.outcome == verdict
    assert len(made) < 59
    assert sides[0].asked == sides[1].asked == [trial for item in made for trial in item.trials]
    assert "t003" not in sides[0].asked  # a control is no pair of the metric
    assert {item.first_side for item in made} == {0, 1}


def test_a_block_may_hold_several_trials():
    bets, sides = Bets(0.1), (Simulated(1.0, 1), Simulated(1.0, 2))
    made = list(interleave.run(sides, "hit.ttft_ms", bets, size=10, seed=7, say=lambda _: None))
    assert [len(item.trials) for item in made] == [10] * len(made) or len(made[-1].trials) == 9


def test_two_endpoints_are_measured_in_turns_and_one_comparison_is_written(tmp_path):
    with FakeServer(base_ms=2, itl_ms=1) as one, FakeServer(base_ms=2, itl_ms=1) as two:
        sides = configuration(one, set={**SET, "repeats": 3}), configuration(two, set={**SET, "repeats": 3})
        found = ab.run(*sides, tmp_path, opened, names=("A", "B"), say=lambda _: None)
    content = json.loads((tmp_path / "compare.json").read_text())
    assert content == found.comparison.as_json()
    assert content["verdict"] in ("faster", "slower", "equivalent", "undecided")
    assert content["pairs"] == len(found.blocks) <= found.planned == 3
    assert "anytime" in content["method"]
    for name in ("A", "B"):
        status = json.loads((tmp_path / name / "status.json").read_text())
        assert (status["status"], "stopped by the rule" in status["reason"]) == ("completed", True)
    assert (tmp_path / "compare.html").is_file()
    assert (tmp_path / "blocks.csv").read_text().count("\n") == len(found.blocks) + 1


def test_what_differs_in_the_work_is_refused_after_one_block_unless_it_is_named(tmp_path):
    with (
        FakeServer(base_ms=2, itl_ms=1) as cached,
        FakeServer(base_ms=2, itl_ms=1, prefix_caching=False) as not_cached,
    ):
        sides = configuration(cached), configuration(not_cached)
        found = ab.run(*sides, tmp_path / "one", opened, names=("A", "B"), say=lambda _: None)
        assert found.comparison.exit_code == 2
        assert len(found.blocks) == 1
        fields = {item.field for item in found.comparison.refused}
        assert "cache_state" in fields
        named = sides[0], configuration(not_cached, across=sorted(fields))
        found = ab.run(*named, tmp_path / "two", opened, names=("A", "B"), say=lambda _: None)
        assert found.comparison.verdict is not None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("experiment: [", "ab"), ("profile: smoke", "experiment"), ("experiment: token_sweep\nmodel: x", "model"),
        ("experiment: token_sweep\nset: {repeats: 0}", "repeats"), ("- 1", "configuration"),
        ("experiment: none", "none"), ("experiment: token_sweep\nengine_args: --port 9", "KVLAB_ENGINE_ARGS"),
        ("experiment: token_sweep\nengine_args: 'a b", "ab"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_line_and_leaves_nothing(tmp_path, content, says):
    (tmp_path / "a.yaml").write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        interleaving.ab(tmp_path / "a.yaml", tmp_path / "a.yaml", outputs=tmp_path / "outputs")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("outputs/*/*"))


def test_the_command_is_there_and_a_missing_file_is_one_line(tmp_path):
    result = kvlab("ab", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"))
    assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result.stderr


def test_plans_that_differ_are_refused(tmp_path):
    with FakeServer() as server:
        sides = configuration(server), configuration(server, set={**SET, "repeats": 3})
        with pytest.raises(InputError, match="different trials"):
            ab.run(*sides, tmp_path, opened, names=("A", "B"), say=lambda _: None)


def test_its_false_alarm_rate_is_that_of_looking_after_every_block():
    rng = np.random.default_rng(5)
    found = interleave.false_alarms((0.1 * rng.standard_normal(60)).tolist(), Bets(0.05), seed=1, draws=100)
    assert found.rate is not None
    assert found.rate <= 0.08
    assert interleave.false_alarms([0.1] * 3, Bets(0.05), seed=1).rate is None


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [(1.5, "slower"), (0.3, "slower"), (-0.3, "faster"), (-2.0, "faster"), (0.0, "equivalent")],
)
def test_bets_say_the_truth_and_keep_to_it(effect, verdict):
    rng, bets = np.random.default_rng(3), Bets(0.05)
    said = [bets.add(effect + 0.03 * float(x)) for x in rng.standard_normal(60)]
    assert said[0] == "undecided"
    assert said[-1] == verdict
    assert set(said) == {"undecided", verdict}
    interval = bets.interval()
    assert interval.low < math.exp(effect) < interval.high


def test_bets_on_nothing_say_nothing():
    assert Bets(0.05).interval().low is None
    bets = Bets(0.05)
    bets.add(0.4)
    assert bets.outcome == "undecided"
