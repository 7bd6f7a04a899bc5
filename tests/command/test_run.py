"""The life of a run: whole, failing, killed at each of its processes, resumed. Against a known server."""

import json
import os
import shutil
import signal

import psutil
import pytest

from benchmarks.servers.process import FakeServer
from tests.command.tool import SWEEP, alive, done, family, folders, kvlab, read, start, status, until

KEY = "sk-canary-3141592653589793"
USER = "canary-user-2718281828"
FILES = {
    "status.json", "manifest.json", "run.sqlite", "notebook.ipynb", "summary.json", "requests.csv", "report.md",
    "report.html", "plots", "token_sweep.csv", "pairs.csv", "ttft_split.csv",
}  # fmt: skip


def env(server):
    return {
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": KEY,
        "OPENAI_MODEL": "fake",
        "TENSORMESH_USER_ID": USER,
    }


def sweep(targets="[300,500]", repeats=3, *more):
    return [*SWEEP, "--set", f"token_targets={targets}", "--set", f"repeats={repeats}", *more]


def printed(text):
    return {line.split()[1] for line in text.splitlines() if line.startswith("[") and " done: " in line}


def canary_is_nowhere(folder, *texts):
    for path in [*folder.rglob("*"), *folder.parent.glob("*.html")]:
        if path.is_file():
            data = path.read_bytes()
            assert KEY.encode() not in data, path
            assert USER.encode() not in data, path
    for text in texts:
        assert KEY not in text
        assert USER not in text


def test_a_whole_run_its_report_anew_and_the_list(outputs, tmp_path):
    """The settings come from a .env file here, as a user's do."""
    file = tmp_path / ".env"
    with FakeServer(base_ms=5, itl_ms=1, ms_per_uncached_token=0.05, require_key=KEY) as server:
        file.write_text("".join(f"{name}={value}\n" for name, value in env(server).items()))
        result = kvlab(*sweep(), "--strict", KVLAB_ENV_FILE=str(file))
    assert result.returncode == 0, result
    (folder,) = folders(outputs)
    assert {path.name for path in folder.iterdir()} == FILES
    assert status(folder) == "completed"
    assert printed(result.stdout) == done(folder) == {f"{t:06d}-r0{r}" for t in (300, 500) for r in (1, 2, 3)}
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["verdict"], summary["results"]["pairs_valid"]) == ("PASS", 6)
    assert summary["results"]["max_prompt_tokens_off_target"] == 0
    assert summary["results"]["cache_states"] == {"cold": {"cold": 6}, "hit": {"hit": 6}}
    canary_is_nowhere(folder, result.stdout, result.stderr)
    derived = [
        path
        for path in folder.rglob("*")
        if path.suffix in (".md", ".html", ".csv", ".png") or path.name == "summary.json"
    ]
    before = {path: path.read_bytes() for path in derived}
    for path in derived:
        path.unlink()
    shutil.rmtree(folder / "plots")
    assert kvlab("report", str(folder)).returncode == 0
    assert {path: path.read_bytes() for path in derived} == before, "the same database, the same bytes"
    listing = kvlab("ls")
    assert "PASS" in listing.stdout
    assert folder.name in listing.stdout
    assert "PASS" in (folder.parent / "index.html").read_text()


def test_a_second_run_overwrites_nothing_and_a_user_isolation_id_is_caught(outputs):
    """The same isolation id on a warm server: the cold requests are not cold, and the verdict says so."""
    arguments = sweep("[300]", 1, "--set", "isolation_id=mine", "--set", "confidence=0.9")
    with FakeServer(base_ms=1, itl_ms=2, honour_salt=False) as server:
        first = kvlab(*arguments, **env(server))
        second = kvlab(*arguments, "--strict", **env(server))
    assert (first.returncode, second.returncode) == (0, 3)
    one, two = folders(outputs)
    assert one != two
    summary = json.loads((two / "summary.json").read_text())
    assert summary["verdict"] == "INVALID"
    assert summary["results"]["cache_states"]["cold"] == {"hit": 1}


def test_a_silent_server_gives_no_verdict(outputs):
    with FakeServer(base_ms=1, itl_ms=2, usage="no_details", metrics=False) as server:
        result = kvlab(*sweep("[300]", 5), "--strict", **env(server))
    assert result.returncode == 3
    (folder,) = folders(outputs)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["verdict"] == "INVALID"
    assert summary["results"]["cache_states"] == {"cold": {"unverified": 5}, "hit": {"unverified": 5}}
    assert "proves nothing" in summary["reasons"][0]


def test_a_failed_attempt_has_its_own_row_and_its_pair_starts_again_cold(outputs):
    """Faults count generation requests: nine probes and a warm-up come first, then cold, hit, cold…"""
    with FakeServer(base_ms=1, itl_ms=2, faults={str(n): "status_429" for n in (11, 14)}) as server:
        result = kvlab(*sweep("[300]", 5), **env(server))
    assert result.returncode == 0, result
    (folder,) = folders(outputs)
    attempts = read(folder, "SELECT trial_id, attempts FROM trials WHERE attempts > 1")
    assert attempts, "the faults must have struck a measured request"
    assert read(folder, "SELECT count(*) FROM failures WHERE error_type = 'RATE_LIMITED'") != [(0,)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["results"]["cache_states"] == {"cold": {"cold": 5}, "hit": {"hit": 5}}


def test_a_server_that_dies_is_a_failed_run_with_the_reason(outputs):
    with FakeServer(base_ms=1, itl_ms=2, faults={str(n): "status_500" for n in range(11, 200)}) as server:
        result = kvlab(*sweep("[300]", 1, "--set", "max_attempts=1"), **env(server))
    assert result.returncode == 1
    (folder,) = folders(outputs)
    assert status(folder) == "failed"
    assert "--resume" in result.stderr
    assert "Traceback" not in result.stderr


VICTIMS = {
    "kernel": "ipykernel",
    "papermill": "kvlab.command.headless",
    "command": "token_sweep",
}


#: Requests that are answered before a run is struck: nine probes, a warm-up, and the cold and the hit of some pairs. The
#: later ones wait at the server, so that no machine is fast enough to end the run before.
BEFORE, ALL = 20, 10**9


def find(process, mark):
    return next(p for p in family(process.pid) if mark in " ".join(p.cmdline()))


@pytest.mark.parametrize("victim", VICTIMS)
def test_sigkill_mid_sweep_loses_nothing_leaves_nothing_and_resumes(outputs, victim):
    with FakeServer(base_ms=2, itl_ms=1, answer_first=BEFORE) as server:
        process = start(*sweep("[300,400,500]", 6), **env(server))
        until(lambda: bool(folders(outputs)))
        (folder,) = folders(outputs)
        until(lambda: len(done(folder)) >= 2)
        everyone = family(process.pid)
        os.kill(find(process, VICTIMS[victim]).pid, signal.SIGKILL)
        output, _ = process.communicate(timeout=60)
        until(lambda: not alive(everyone), 30)
        assert process.returncode == (-9 if victim == "command" else 1)
        until(lambda: status(folder) != "running", 10)
        assert status(folder) == ("interrupted" if victim == "command" else "failed")
        survived = done(folder)
        assert printed(output) <= survived
        assert len(survived) < 18, "it was to be killed in the middle"
        server.control(answer_first=ALL)
        kept = read(folder, "SELECT request_id, sent_ns FROM telemetry ORDER BY 1")
        resumed = kvlab("run", "token_sweep", "--resume", str(folder), **env(server))
    assert resumed.returncode == 0, resumed
    assert status(folder) == "completed"
    assert len(done(folder)) == 18
    assert printed(resumed.stdout) == done(folder) - survived, "only what was missing"
    assert set(kept) <= set(read(folder, "SELECT request_id, sent_ns FROM telemetry"))
    assert read(
        folder,
        "SELECT count(*) FROM (SELECT 1 FROM requests WHERE measured GROUP BY trial_id HAVING count(*) != 2)",
    ) == [(0,)]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["results"]["cache_states"] == {"cold": {"cold": 18}, "hit": {"hit": 18}}
    assert (folder / "notebook.1.ipynb").exists()
    canary_is_nowhere(folder, output, resumed.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_is_an_interruption(outputs, number):
    with FakeServer(base_ms=2, itl_ms=1, answer_first=BEFORE) as server:
        process = start(*sweep("[300,400,500]", 3), **env(server))
        until(lambda: bool(folders(outputs)))
        (folder,) = folders(outputs)
        until(lambda: len(done(folder)) >= 1)
        everyone = family(process.pid)
        for argument in (a for p in everyone for a in p.cmdline()):
            assert KEY not in argument
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert status(folder) == "interrupted"
    assert "Traceback" not in output
    until(lambda: not alive(everyone), 30)


def test_a_run_whose_every_process_was_killed_is_found_interrupted(outputs):
    with FakeServer(base_ms=2, itl_ms=1, answer_first=BEFORE) as server:
        process = start(*sweep("[300,400,500]", 3), **env(server))
        until(lambda: bool(folders(outputs)))
        (folder,) = folders(outputs)
        until(lambda: len(done(folder)) >= 1)
        for member in family(process.pid):
            try:
                member.suspend()
            except psutil.NoSuchProcess:
                continue
        for member in family(process.pid)[::-1]:
            member.kill()
        process.communicate(timeout=60)
    assert status(folder) == "running", "nobody was left to write it"
    assert "interrupted" in kvlab("ls").stdout
    assert status(folder) == "interrupted"


def test_another_contract_is_refused_by_name_and_force_is_recorded(outputs):
    with FakeServer(base_ms=1, itl_ms=2) as server:
        assert kvlab(*sweep("[300]", 1), **env(server)).returncode == 0
        (folder,) = folders(outputs)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        resume = ["run", "token_sweep", "--resume", str(folder)]
        refused = kvlab(*resume, REQUEST_TIMEOUT_S="77", **env(server))
        assert refused.returncode == 2
        assert "settings.request_timeout_s" in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
        assert (folder / "status.json").read_bytes() == before[folder / "status.json"]
        assert kvlab(*resume, "--force", REQUEST_TIMEOUT_S="77", **env(server)).returncode == 0
    sessions = json.loads((folder / "manifest.json").read_text())["sessions"]
    assert "settings.request_timeout_s" in sessions[-1]["forced_json"]


def test_a_server_that_echoes_the_key_leaks_nothing(outputs):
    """Accepted by /models of another persona, refused with the key in its message at the first chat."""
    with FakeServer(base_ms=1, itl_ms=2, answer_first=BEFORE) as server:
        process = start(*sweep("[300,400,500]", 3), **env(server))
        until(lambda: bool(folders(outputs)))
        (folder,) = folders(outputs)
        until(lambda: len(done(folder)) >= 1)
        server.control(require_key="another-key-altogether", answer_first=ALL)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "[redacted]" in json.loads((folder / "status.json").read_text())["reason"]
    canary_is_nowhere(folder, output)
