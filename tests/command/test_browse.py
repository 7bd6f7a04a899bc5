"""What a person sees first, finds again and throws away: names, ids, runs."""

import json
import os
import subprocess
import sys
import time
import webbrowser

import pytest

from kvlab import experiments
from kvlab.command import cleaning, complete, planning
from kvlab.demand import Demand
from kvlab.errors import InputError
from kvlab.runs import lock
from kvlab.runs.find import run_folder, run_id
from tests.command.test_cli import run
from tests.golden import stored
from tests.report.test_day import make

LONG = "142530_token_sweep_" + "a-profile-of-many-letters-" * 4


@pytest.fixture
def one_run(outputs):
    return put(outputs, "000000_token_sweep_golden")


def put(outputs, name):
    folder = stored.copy("token_sweep", outputs / "2026-01-01" / name)
    (folder / "status.json").write_text('{"status": "completed"}')
    return folder


def said(monkeypatch, capsys, *words, code=0):
    assert run(monkeypatch, *words) == code
    found = capsys.readouterr()
    if code == 2:
        assert found.out == ""
        assert len(found.err.splitlines()) == 1
    return found.out + found.err


def test_alone_it_teaches(monkeypatch, capsys):
    text = said(monkeypatch, capsys)
    assert all(word in text for word in ("kvlab doctor", "kvlab plan", "kvlab run", "docs/", "KV cache"))


@pytest.mark.parametrize("flag", ["--version", "-V", "version"])
def test_the_version(monkeypatch, capsys, flag):
    assert said(monkeypatch, capsys, flag).strip()[0].isdigit()


@pytest.mark.parametrize("words", [("-h",), ("run", "-h"), ("kv", "all", "-h")])
def test_short_help(monkeypatch, capsys, words):
    assert "Usage" in said(monkeypatch, capsys, *words)


def test_the_experiments_are_listed_whole(monkeypatch, capsys):
    text = said(monkeypatch, capsys, "experiments")
    for name, experiment in experiments.registry().items():
        assert name in text
        assert experiment.title in text


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("run", "token_swep"), "did you mean token_sweep?"),
        (("run", "Token-Sweep"), "did you mean token_sweep?"),
        (("run", "token_sweep", "--profile", "smok"), "did you mean smoke?"),
        (("plan", "token_sweep", "--profile", "Smoke"), "did you mean smoke?"),
        (("plan", "token_sweep", "--set", "repeets=3"), "did you mean repeats?"),
        (("plan", "kv_budget_transition", "--profile", "smoke", "--set", "kv.budgetz=[1.0]"), "did you mean kv.budgets?"),
        (("plan", "kv_budget_transition", "--profile", "smoke", "--set", "engine.dtyp=float32"), "did you mean engine.dtype?"),
        (("show", "2026-01-01/000000_token_sweep_goldn"), "did you mean 2026-01-01/000000_token_sweep_golden?"),
        (("report", "000000_token_sweep_golde"), "did you mean 2026-01-01/000000_token_sweep_golden?"),
        (("open", "2026-01-02/x"), "the newest is"),
        (("run", "token_sweep", "--resume", "2026-01-01/000000_tokn_sweep_golden"), "did you mean"),
        (("clean", "--experiment", "token_sweeps"), "did you mean token_sweep?"),
        (("completion", "tcsh"), "bash, zsh or fish"),
    ],
)  # fmt: skip
def test_a_typing_mistake_is_one_line_with_the_nearest_name(monkeypatch, capsys, one_run, words, hint):
    assert hint in said(monkeypatch, capsys, *words, code=2)


@pytest.mark.parametrize("command", ["show", "report", "open"])
def test_an_id_of_ls_works_everywhere(monkeypatch, capsys, outputs, command):
    monkeypatch.setattr(webbrowser, "get", lambda *_: (_ for _ in ()).throw(webbrowser.Error()))
    folder = put(outputs, LONG)
    (folder / "report.html").write_text("<p>report</p>")
    listed = said(monkeypatch, capsys, "ls")
    printed = next(line.split()[0] for line in listed.splitlines() if LONG in line)
    assert printed == f"2026-01-01/{LONG}", "never cut"
    assert str(folder) in said(monkeypatch, capsys, command, printed)
    assert run_folder(LONG) == run_folder(printed) == run_folder(folder) == folder.resolve()


@pytest.mark.parametrize("name", ["000000_é", "000000_[bold]x", "000000_a b", "000000_\x1b[31mred"])
def test_odd_ids_are_found_as_they_are_printed(monkeypatch, capsys, outputs, name):
    make(outputs / "2026-01-01" / name, "{}")
    folder = outputs / "2026-01-01" / name
    assert run_folder(run_id(folder)) == folder.resolve()
    assert "\x1b" not in said(monkeypatch, capsys, "show", run_id(folder))


@pytest.mark.parametrize("text", ["", "\0", "x" * 5000, "../../etc", "2026-01-01", "."])
def test_what_is_no_id_is_one_line(monkeypatch, capsys, one_run, text):
    said(monkeypatch, capsys, "show", text, code=2)


def test_the_last_part_must_name_one_run(outputs):
    for day in ("2026-01-01", "2026-01-02"):
        make(outputs / day / "000000_x", "{}")
    with pytest.raises(InputError, match="2 runs; write the day too"):
        run_folder("000000_x")


def test_a_run_is_shown_with_verdict_figures_and_paths(monkeypatch, capsys, one_run):
    said(monkeypatch, capsys, "report", "2026-01-01/000000_token_sweep_golden")
    text = said(monkeypatch, capsys, "show", "2026-01-01/000000_token_sweep_golden")
    summary = json.loads((one_run / "summary.json").read_text())
    assert f"{summary['verdict']}: {summary['brief']['sentence']}" in text
    assert "median_ttft_reduction" in text
    assert "0.7943 to 0.9118" in text
    assert str(one_run / "report.html") in text


def test_a_report_is_opened_in_a_browser(monkeypatch, capsys, one_run):
    opened = []
    monkeypatch.setattr(webbrowser, "get", lambda *_: None)
    monkeypatch.setattr(webbrowser, "open", opened.append)
    (one_run / "report.html").write_text("x")
    said(monkeypatch, capsys, "open", "000000_token_sweep_golden")
    assert opened == [(one_run / "report.html").resolve().as_uri()]
    (one_run / "report.html").unlink()
    assert "kvlab report" in said(monkeypatch, capsys, "open", "000000_token_sweep_golden", code=2)


def test_a_plan_says_what_is_unknown_and_why(monkeypatch, capsys, outputs):
    text = said(monkeypatch, capsys, "plan", "token_sweep", "--profile", "smoke")
    assert "time: unknown, because no earlier run" in text
    assert "money: none" in text
    assert not outputs.exists()


def test_time_is_scaled_from_earlier_runs_of_the_same_place(one_run, outputs):
    base, model = planning.Database(one_run / "run.sqlite").sql.execute("SELECT base_url, model_name FROM runs").fetchone()  # fmt: skip
    (earlier,) = planning.taken("token_sweep", (base, model), outputs)
    assert earlier.requests >= 32
    assert planning.taken("token_sweep", (base, "another"), outputs) == []
    assert planning.taken("batch_benchmark", (base, model), outputs) == []
    same = planning.time("token_sweep", Demand(earlier.requests, earlier.tokens, 0), (base, model), outputs)
    assert same.low_s == pytest.approx(earlier.seconds)
    assert same.high_s == pytest.approx(earlier.seconds)
    twice = planning.time("token_sweep", Demand(earlier.requests * 2, None, None), (base, None), outputs)
    assert twice.low_s == pytest.approx(2 * earlier.seconds)
    unknown = planning.time("token_sweep", Demand(why="it is not said"), (base, model), outputs)
    assert unknown.words == "unknown, because the size of the plan is (it is not said)"


def states(outputs):
    """Runs in every state; returns those that may go."""
    day = outputs / "2026-01-01"
    for name, state in (("000001_token_sweep_a", "failed"), ("000002_batch_benchmark_a", "interrupted"),
                        ("000003_token_sweep_b", "completed"), ("000004_token_sweep_c", "running")):  # fmt: skip
        make(day / name, "{}", "{}", json.dumps({"status": state}))
    make(outputs / "not a day" / "000005_token_sweep_d", "{}", "{}", json.dumps({"status": "failed"}))
    return {path.name for path in day.iterdir() if path.is_dir()}


def test_nothing_is_deleted_unasked_and_only_what_did_not_end(monkeypatch, capsys, outputs):
    every = states(outputs)
    day = outputs / "2026-01-01"
    held = lock.acquire(day / "000004_token_sweep_c")
    text = said(monkeypatch, capsys, "clean")
    assert "000001_token_sweep_a" in text
    assert "000003" not in text
    assert "000004" not in text
    assert "nothing is deleted without --delete" in text
    assert {path.name for path in day.iterdir() if path.is_dir()} == every
    assert "--yes" in said_on_error(monkeypatch, capsys, "clean", "--delete")
    assert {path.name for path in day.iterdir() if path.is_dir()} == every
    assert "no failed or unfinished" in said(monkeypatch, capsys, "clean", "--older-than", "1", "--delete")
    said(monkeypatch, capsys, "clean", "--experiment", "batch_benchmark", "--delete", "--yes")
    assert {path.name for path in day.iterdir() if path.is_dir()} == every - {"000002_batch_benchmark_a"}
    said(monkeypatch, capsys, "clean", "--delete", "--yes")
    left = {path.name for path in day.iterdir() if path.is_dir()}
    assert left == {"000003_token_sweep_b", "000004_token_sweep_c"}
    assert (outputs / "not a day" / "000005_token_sweep_d").is_dir()
    held.release()


def said_on_error(monkeypatch, capsys, *words):
    assert run(monkeypatch, *words) == 2
    return capsys.readouterr().err


def test_a_run_that_came_back_to_life_is_left_alone(outputs):
    states(outputs)
    folder = outputs / "2026-01-01" / "000001_token_sweep_a"
    with lock.locked(folder):
        assert not cleaning.delete(folder)
    assert folder.is_dir()
    (folder / "status.json").write_text(json.dumps({"status": "completed"}))
    assert not cleaning.delete(folder)
    assert folder.is_dir()


def test_what_a_shell_is_offered(outputs, one_run):
    def offered(words, count):
        env = {"_KVLAB_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(count)}
        code = "import sys; sys.argv = ['kvlab']; from kvlab.command.cli import main; main()"
        command = [sys.executable, "-c", code]  # `python -m kvlab` is another program to a shell
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **env}, timeout=60, check=False
        )
        return done.stdout.split()

    assert offered("kvlab run tok", 2) == ["token_sweep"]
    assert offered("kvlab run token_sweep --profile sm", 4) == ["smoke"]
    assert offered("kvlab show 2026", 2) == ["2026-01-01/000000_token_sweep_golden"]
    assert "plan" in offered("kvlab pl", 1)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_variable(shell):
    assert complete.VARIABLE in complete.script(shell)


def test_a_line_is_out_when_it_is_printed(tmp_path):
    """In a pipe too: what is printed before a command waits is read while it waits."""
    code = "import time; from kvlab.command import show; show.prepare(); show.say('first'); time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=dict(os.environ))
    began = time.monotonic()
    assert process.stdout is not None
    assert process.stdout.readline() == b"first\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert time.monotonic() - began < 29
