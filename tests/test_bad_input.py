"""A user's mistake is one line that names the field and the fix, exit code 2, and nothing written."""

import pytest

from benchmarks.servers.process import FakeServer
from tests.command.tool import kvlab

BATCH = ["run", "batch_benchmark", "--profile", "smoke"]
PREFIX = ["run", "prefix_hit_miss", "--profile", "smoke"]
RUN = ["run", "token_sweep", "--profile", "smoke"]
HERE = {
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "OPENAI_API_KEY": "sk-secret-99887766",
    "OPENAI_MODEL": "fake",
}

CASES = {
    "no experiment": (["run"], {}, "experiment"),
    "unknown experiment": (["run", "tokensweep"], {}, "experiment: 'tokensweep'"),
    "unknown option": (["run", "token_sweep", "--fast"], {}, "--fast"),
    "unknown profile": (["run", "token_sweep", "--profile", "huge"], {}, "--profile: 'huge'"),
    "params file not there": ([*RUN, "--params", "none.yaml"], {}, "--params"),
    "unknown parameter": ([*RUN, "--set", "repeat=3"], {}, "did you mean repeats?"),
    "value of the wrong kind": ([*RUN, "--set", "repeats=many"], {}, "repeats: 'many'"),
    "value out of range": ([*RUN, "--set", "ttft_min_reduction_fraction=1.5"], {}, "ttft_min_reduction_fraction: 1.5"),
    "not key=value": ([*RUN, "--set", "repeats"], {}, "--set: 'repeats'"),
    "URL without /v1": (RUN, {**HERE, "OPENAI_BASE_URL": "http://127.0.0.1:9"}, "OPENAI_BASE_URL"),
    "URL with credentials": (RUN, {**HERE, "OPENAI_BASE_URL": "http://u:sk-secret-99887766@h/v1"}, "OPENAI_BASE_URL"),
    "URL without model": (RUN, {**HERE, "OPENAI_MODEL": ""}, "OPENAI_MODEL: is missing"),
    "URL without key": (RUN, {**HERE, "OPENAI_API_KEY": ""}, "OPENAI_API_KEY: is missing"),
    "model without URL": (RUN, {**HERE, "OPENAI_BASE_URL": ""}, "OPENAI_BASE_URL: is missing"),
    "nothing answers": (RUN, HERE, "does not answer"),
    "bad tuning key": (RUN, {"SCENARIO_TOKEN_TARGETS": "a,b"}, "SCENARIO_TOKEN_TARGETS: 'a,b'"),
    "tuning key out of range": (RUN, {"MAX_TOKENS": "0"}, "max_tokens: 0"),
    "resume of nothing": ([*RUN, "--resume", "nowhere"], {}, "run folder"),
    "resume with other params": ([*RUN, "--resume", ".", "--set", "repeats=3"], {}, "--set"),
    "outputs in a file": ([*RUN, "--outputs", __file__], {}, "--outputs"),
    "force without resume": ([*RUN, "--force"], {}, "--force"),
    "model folder that is none": (RUN, {"KVLAB_MODEL": "/tmp"}, "KVLAB_MODEL"),
    "model folder not there": (RUN, {"KVLAB_MODEL": "./no/such/model"}, "KVLAB_MODEL"),
    "zero trials": ([*PREFIX, "--set", "num_trials=0"], {}, "num_trials: 0"),
    "one size of two": ([*PREFIX, "--set", "size_a=128"], {}, "size_b: size_a is set without size_b"),
    "sizes beyond the context": ([*PREFIX, "--set", "sizes=[[8000,256]]"], {}, "sizes: [8000, 256]"),
    "contexts and a folder that is no model": (PREFIX, {"KVLAB_MODEL": "/tmp"}, "KVLAB_MODEL"),
    "contexts and a model not there": (PREFIX, {"KVLAB_MODEL": "./no/such/model"}, "KVLAB_MODEL"),
    "a batch of nothing": ([*BATCH, "--set", "sizes=[0]"], {}, "sizes: [0] holds a size outside 1 to 10,000,000"),
    "too many at once": ([*BATCH, "--set", "concurrency=10001"], {}, "concurrency: 10001"),
    "a target below the sizes": ([*BATCH, "--set", "target_requests=10"], {}, "target_requests: 10 is less than"),
    "unknown strategy": ([*BATCH, "--set", "strategies=[prefix]"], {}, "strategies"),
    "no such summary": ([*BATCH, "--set", "context_limit_summary=no.json"], {}, "context_limit_summary: 'no.json'"),
    "report of nothing": (["report", "nowhere"], {}, "run folder"),
}  # fmt: skip


def check(result, says, outputs):
    assert result.returncode == 2, result
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr
    assert "sk-secret" not in result.stdout + result.stderr
    assert not outputs.exists()


@pytest.mark.parametrize("name", CASES)
def test_one_line_exit_2_nothing_written(name, outputs):
    arguments, env, says = CASES[name]
    check(kvlab(*arguments, **env), says, outputs)


def endpoint(server, **changes):
    return {**HERE, "OPENAI_BASE_URL": server.base_url, **changes}


def test_a_wrong_key_a_wrong_model_a_short_context_and_no_api(outputs):
    with FakeServer(require_key="the-right-key", max_model_len=2000) as server:
        check(kvlab(*RUN, **endpoint(server)), "OPENAI_API_KEY: is refused", outputs)
        right = {"OPENAI_API_KEY": "the-right-key"}
        check(kvlab(*RUN, **endpoint(server, **right, OPENAI_MODEL="gpt")), "it serves fake", outputs)
        check(kvlab(*RUN, **endpoint(server, **right)), "token_targets: 2048", outputs)
        web = {**right, "OPENAI_BASE_URL": f"{server.root_url}/health/v1"}
        elsewhere = kvlab(*RUN, **endpoint(server, **web))
        assert (elsewhere.returncode, len(elsewhere.stderr.strip().splitlines())) == (2, 1)
        assert "OPENAI_BASE_URL" in elsewhere.stderr
        assert not list(outputs.glob("*/*/"))


def test_what_only_the_notebook_can_find_leaves_nothing_either(outputs):
    """The document is too short for its target: known only once the server has counted it."""
    with FakeServer(base_ms=1, itl_ms=2) as server:
        result = kvlab(*RUN, "--set", "manual_sections=2", **endpoint(server))
    assert result.returncode == 2
    assert "raise manual_sections" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert not list(outputs.glob("*/*/"))
