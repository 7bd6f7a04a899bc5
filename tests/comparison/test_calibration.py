"""How often equal sides are called different, what a precision costs, and which start measured what."""

import math

import pytest

from kvlab import api
from kvlab.command import comparing
from kvlab.comparison import against_itself, calibration, planning, sides, values
from kvlab.errors import InputError, KvlabError
from kvlab.records import Trial
from kvlab.starts import Starts, check
from tests.command.tool import kvlab
from tests.comparison import made

METRIC = "hit.ttft_ms"


@pytest.fixture(scope="module")
def equal(tmp_path_factory):
    """Return four runs of one configuration."""
    outputs = tmp_path_factory.mktemp("equal")
    return [sides.find(made.run(outputs, f"r{k}", seed=k)) for k in range(4)]


def own(side):
    table = values.table(side)
    return table[table["metric"] == METRIC].reset_index(drop=True)


def test_every_two_runs_are_compared_and_those_that_share_none_are_counted(equal):
    found = against_itself.calibrate(equal, read_params=api.stored_params)
    assert len(found.rows) == 6
    assert found.between.n == 2
    assert found.between.low <= found.between.rate <= found.between.high
    assert found.within.n == 4
    assert "A/A runs" in found.between.words


def test_runs_of_two_configurations_calibrate_nothing(equal, tmp_path):
    other = sides.find(made.run(tmp_path, "other", contract={"engine": {"name": "vLLM", "version": "99"}}))
    with pytest.raises(InputError, match="engine"):
        against_itself.calibrate([equal[0], other], read_params=api.stored_params)
    with pytest.raises(InputError, match="two or more"):
        against_itself.calibrate(equal[:1], read_params=api.stored_params)


def test_a_permutation_takes_the_effect_out(equal, tmp_path):
    other = sides.find(made.run(tmp_path, "other", factor=3.0, seed=9))
    found = calibration.permuted(own(equal[0]), own(other), 0.05, 0.95, seed=1, draws=200)
    assert found.rate <= 0.1
    assert calibration.permuted(own(equal[0]), own(other), 0.05, 0.95, seed=1, draws=200) == found


def test_too_few_starts_have_no_rate(tmp_path):
    pair = [own(sides.find(made.run(tmp_path, f"s{k}", seed=k, starts=(1.0, 1.1)))) for k in range(2)]
    found = calibration.permuted(*pair, 0.05, 0.95, seed=1)
    assert (found.rate, found.low) == (None, None)
    assert "too few ways" in found.words


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(0, 20, 0.0, 0.1684), (1, 20, 0.0013, 0.2487), (20, 20, 0.8316, 1.0)]
)
def test_the_interval_of_a_share_is_exact(hits, n, low, high):
    assert calibration.exact(hits, n) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_a_plan_reaches_its_precision_and_starts_matter(tmp_path):
    side = sides.find(made.run(tmp_path, "r", seed=3, noise=0.05, starts=(0.9, 1.0, 1.1, 1.0)))
    found = planning.spread(side, own(side))
    assert found.starts == 4
    assert math.sqrt(found.between) == pytest.approx(0.08, abs=0.05)
    designs = planning.designs(found, 0.05)
    assert designs
    assert all(item.half_width <= 0.0501 for item in designs)
    assert [item.starts for item in designs] == sorted({item.starts for item in designs})
    assert [item.trials for item in designs] == sorted({item.trials for item in designs}, reverse=True)
    assert planning.cheapest(designs) in designs
    assert planning.designs(found, 1e-4) == []


def test_a_plan_from_one_start_says_so_and_of_none_nothing(equal):
    found = planning.spread(equal[0], own(equal[0]))
    assert (found.between, found.starts) == (None, 1)
    assert planning.designs(found, 0.05) == []
    assert planning.pairs_alone(found, 0.01) > planning.pairs_alone(found, 0.05) >= 6


def test_the_commands_answer(equal, tmp_path, capsys):
    folders = [str(side.first.folder) for side in equal[:2]]
    comparing.compare(folders, calibrate=True)
    assert "false alarms" in capsys.readouterr().out
    several = made.run(tmp_path, "r", seed=3, noise=0.05, starts=(0.9, 1.0, 1.1))
    result = kvlab("compare", "--plan", "--precision", "0.08", str(several))
    assert result.returncode == 0, result.stderr
    assert "starts a side" in result.stdout
    for wrong in ({"plan": True, "calibrate": True}, {"precision": 0.1}, {"plan": True, "precision": 2.0}):
        with pytest.raises(InputError, match="--p"):
            comparing.compare(folders, **wrong)


class Engine:
    """An engine of this process, which can be started anew."""

    def __init__(self, version="1", connection=None):
        self.identity = type("Identity", (), dict.fromkeys(
            ("kind", "model", "revision", "block_size", "max_model_len"), "x") | {"version": version})  # fmt: skip
        self.closed = False
        if connection is not None:
            self.connection = connection

    def close(self):
        self.closed = True


def test_trials_are_spread_over_starts_and_each_start_has_a_name_of_its_own():
    trials = [Trial(f"t{k}", "p", k, {}) for k in range(7)]
    engines = [Engine()]
    starts = Starts(trials, 3, lambda: engines.append(Engine()) or engines[-1])
    labels = []
    for trial in trials:
        if starts.is_next(trial):
            starts.restarted(engines[-1])
        labels.append(starts.label(engines[-1]))
    assert [labels.count(label) for label in dict.fromkeys(labels)] == [3, 2, 2]
    assert [engine.closed for engine in engines] == [True, True, False]


def test_another_engine_after_a_restart_is_an_error():
    trials = [Trial(f"t{k}", "p", k, {}) for k in range(2)]
    starts = Starts(trials, 2, lambda: Engine(version="2"))
    with pytest.raises(KvlabError, match="another engine"):
        starts.restarted(Engine())


def test_an_endpoint_has_no_starts_and_a_shared_server_is_refused():
    endpoint = Engine(connection=type("Connection", (), {"embedded": None}))
    shared = Engine(
        connection=type("Connection", (), {"embedded": type("Lease", (), {"reused": True, "pid": 1})})
    )
    assert Starts([], 1, Engine).label(endpoint) is None
    check(1, endpoint)
    check(3, Engine())
    for engine in (endpoint, shared):
        with pytest.raises(InputError, match="starts"):
            check(3, engine)
