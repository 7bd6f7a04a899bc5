"""The command on the real embedded engine: vLLM, and the model that comes from a package."""

import json
import os
import signal
import subprocess
import sys

import pytest

from kvlab.evidence import full_hit_tokens
from tests.command.tool import alive, done, family, folders, kvlab, read, start, status, until

SWEEP = [
    "run",
    "token_sweep",
    "--profile",
    "smoke",
    "--set",
    "token_targets=[300,640]",
    "--set",
    "max_tokens=4",
    "--set",
    "position_controls=0",
]
pytestmark = pytest.mark.engine


def test_cold_is_cold_and_hit_is_a_full_hit(engine, outputs):
    result = kvlab(*SWEEP, "--set", "repeats=3")
    assert result.returncode == 0, result
    (folder,) = folders(outputs)
    found = read(
        folder,
        "SELECT arm, target_tokens, prompt_tokens, cached_tokens FROM requests JOIN responses USING (request_id) WHERE measured",
    )
    assert len(found) == 12
    for arm, target, prompt_tokens, cached in found:
        assert prompt_tokens == target, "exactly, in the server's own count"
        assert cached == (0 if arm == "cold" else full_hit_tokens(target, engine.block_size))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["contract"]["endpoint"] == "embedded"
    assert all(fact["holds"] for fact in manifest["endpoint_identity"]["facts"].values())


def test_completions_too(engine, outputs):
    result = kvlab(*SWEEP, "--set", "repeats=3", "--set", "api=completions")
    assert result.returncode == 0, result


def test_beyond_the_context_is_refused_before_anything_is_written(outputs):
    result = kvlab(*SWEEP, "--set", "token_targets=[8190]")
    assert result.returncode == 2
    assert "8188" in result.stderr
    assert not outputs.exists()


def test_a_killed_command_leaves_no_server_behind(alone, outputs, tmp_path_factory):
    runtime = str(tmp_path_factory.mktemp("rt"))
    process = start(*SWEEP, "--set", "repeats=20", KVLAB_RUNTIME_DIR=runtime)
    everyone = []
    try:
        until(lambda: bool(folders(outputs)), 300)
        (folder,) = folders(outputs)
        until(lambda: bool(done(folder)), 120)
        (server,) = json.loads(kvlab_servers(runtime))
        everyone = family(process.pid) + family(server["supervisor_pid"]) + family(server["pid"])
        assert len(alive(everyone)) >= 5, "command, papermill, kernel, supervisor, vLLM"
    finally:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    until(lambda: not alive(everyone), 60)
    assert status(folder) == "interrupted"


def kvlab_servers(runtime):
    code = "import json; from kvlab.serving import embedded; print(json.dumps(embedded.running()))"
    env = {**os.environ, "KVLAB_RUNTIME_DIR": runtime}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout
