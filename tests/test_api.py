"""The front door, as somebody at a prompt uses it."""

import json
import subprocess
import sys

import pytest

import kvlab as kv
from benchmarks.servers.process import FakeServer
from kvlab.errors import InputError
from tests.command.tool import status

SMALL = {
    "token_targets": [300, 600], "repeats": 2, "position_controls": 0, "max_tokens": 3, "manual_sections": 40,
}  # fmt: skip


@pytest.fixture
def server(point_at):
    with FakeServer(base_ms=1, itl_ms=2, ms_per_uncached_token=0.02) as found:
        point_at(found)
        yield found


def measured(run):
    for trial in run.pending():
        run.measure(trial)
    return run.requests[run.requests["used"]]


def test_importing_it_is_light_and_brings_the_front_door():
    code = "import sys, kvlab; kvlab.open, kvlab.connect; print([m for m in ('pandas', 'torch', 'matplotlib', 'vllm') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    assert {"connect", "open", "load", "score", "vram"} <= set(dir(kv))
    with pytest.raises(AttributeError, match="it has ab, compare"):
        _ = kv.measure


def test_one_prompt_asked_twice_is_cold_then_a_hit(server):
    with kv.connect() as found:
        prompt = found.prompt(tokens=500)
        assert (prompt.tokens, prompt.exact) == (500, True)
        cold, hit = found.ask(prompt), found.ask(prompt)
        assert (cold.state, hit.state) == ("cold", "hit")
        assert hit.cached_tokens == 496
        assert hit.ttft_ms > 0
        assert "as predicted" in hit.why
        assert found.ask(found.prompt(tokens=500)).state == "cold"


def test_a_run_opened_measured_finished_and_still_readable(server, outputs):
    run = kv.open("token_sweep", **SMALL)
    run.warm_up()
    run.warm_up()
    assert len(measured(run)) == 8
    summary = run.finish()
    assert status(run.folder) == "completed"
    assert len(run.requests) == 8
    assert len(run.table("token_sweep")) == 2
    assert run.checks()["name"].tolist()[0] == "cache_states_proven"
    assert run.picture("ttft_vs_tokens")
    assert run.finish() == summary
    with pytest.raises(InputError, match="finished or closed"):
        run.warm_up()


@pytest.mark.parametrize("when", [0, 1], ids=["in the cold request", "in the hit"])
def test_an_interrupted_trial_starts_again_from_cold(server, outputs, when):
    run = kv.open("token_sweep", **SMALL)
    ask, asked = run.engine.ask, []

    def interrupted(call):
        row = ask(call)  # the server has seen it: its tokens are in the cache
        asked.append(call)
        if len(asked) == when + 1:
            raise KeyboardInterrupt
        return row

    run.engine.ask = interrupted
    with pytest.raises(KeyboardInterrupt):
        measured(run)
    run.engine.ask = ask
    used = measured(run)
    cold = used[used["arm"] == "cold"]
    assert len(used) == 8
    assert cold["cache_state"].eq("cold").all()
    assert cold["cached_tokens"].eq(0).all()
    assert sorted(cold["attempt"]) == [1, 1, 1, 2]
    run.close()


def test_a_parameter_changed_after_opening_is_refused(server, outputs):
    cell = {**SMALL, "profile": "mine"}
    run = kv.open("token_sweep", cell)
    cell["repeats"] = 3
    with pytest.raises(InputError, match="repeats: 3 was 2 when this run was opened"):
        next(run.pending())
    run.close()


def test_opening_again_says_what_it_leaves_behind(server, outputs, capsys):
    first = kv.open("token_sweep", **SMALL)
    first.measure(first.trials[0])
    second = kv.open("token_sweep", **SMALL)
    assert first.closed
    assert "3 of 4 trials not measured" in capsys.readouterr().out
    assert status(first.folder) == "interrupted"
    again = kv.open("token_sweep", run_dir=first.folder, **SMALL)
    assert len(measured(again)) == 8
    again.finish()
    assert status(first.folder) == "completed"
    second.close()


def test_a_stored_run_says_where_its_numbers_come_from(server, outputs):
    run = kv.open("token_sweep", **SMALL)
    measured(run)
    run.finish()
    old = kv.load(run.folder)
    assert len(old.requests) == 8
    assert old.findings.table("token_sweep").frame().shape[0] == 2
    origin = old.where("ttft_cold_ms")
    assert origin.place == "token_sweep"
    assert origin.function.startswith("kvlab.experiments.token_sweep.findings.")
    assert "ttft_ms" in origin.request_columns
    assert "latency_ms" not in origin.request_columns
    assert origin.stored_as["ttft_ms"].startswith("(telemetry.first_token_ns")
    assert "latency_ms" in old.where("latency_hit_ms").request_columns
    with pytest.raises(InputError, match="neither a column nor a result"):
        old.where("ttft_lukewarm_ms")
    json.dumps(old.summary.as_json())


def test_a_run_that_is_not_there_is_refused(outputs):
    with pytest.raises(InputError, match="kvlab ls"):
        kv.load("2026-01-01/000000_nothing")


def test_the_load_generators_room_takes_nothing_from_the_front_door(server, outputs):
    """Importing a package binds it in its parent: `kvlab.load`, which is a function there, too."""
    run = kv.open("token_sweep", **SMALL)
    run.close()
    import kvlab
    import kvlab.load.control

    assert kvlab.load(run.folder).folder == run.folder
    assert kvlab.load.control.run


def test_one_answer_is_scored():
    assert kv.score("It is Paris.", ["Paris"]).contains == 1.0
    assert kv.score("Lyon", ["Paris"]).f1 == 0.0


def test_memory_is_watched_and_what_cannot_be_seen_is_named():
    with kv.vram.watch(interval_s=0.02) as memory:
        held = bytearray(2**24)
    assert len(held) == 2**24
    assert memory.usage[0].peak_bytes > 0
    assert list(memory.frame().columns) == ["t_s", "series", "used_bytes"]
    with kv.vram.watch(base_url="http://192.0.2.1/v1") as elsewhere:
        pass
    assert elsewhere.usage == []
    assert elsewhere.unseen
