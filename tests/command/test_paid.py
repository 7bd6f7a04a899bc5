"""Nothing much is sent to another machine without a yes, whoever starts it."""

import pytest

import kvlab as kv
from kvlab import experiments, spending
from kvlab.command import consent
from kvlab.demand import Demand
from kvlab.errors import InputError
from kvlab.params import resolve
from kvlab.settings import load_settings
from tests.command.test_cli import run

NAMES = sorted(experiments.registry())


@pytest.fixture
def elsewhere(monkeypatch):
    """An endpoint of another machine: a name that no name server may know (RFC 2606)."""
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.example.invalid/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-CANARY-0123456789abcdef")
    monkeypatch.setenv("OPENAI_MODEL", "m")


@pytest.mark.parametrize(
    ("host", "leaves"),
    [
        ("localhost", False), ("LOCALHOST.", False), ("a.localhost", False), ("127.0.0.1", False), ("127.9.9.9", False),
        ("[::1]", False), ("[::ffff:127.0.0.1]", False), ("localhost.example.com", True), ("10.0.0.1", True),
        ("192.168.1.5", True), ("api.openai.com", True), ("[2001:db8::1]", True), ("127.0.0.1.example.com", True),
    ],
)  # fmt: skip
def test_which_hosts_are_elsewhere(host, leaves):
    assert spending.is_elsewhere(f"http://{host}:8000/v1") is leaves


def test_the_embedded_server_is_here():
    assert not spending.is_elsewhere(None)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("profile", ["smoke", "default"])
def test_every_plan_says_what_it_sends(name, profile):
    experiment = experiments.get(name)
    params = resolve(experiment.Params, name, profile=profile).params
    plan = experiment.plan(params, None)
    assert plan.demand.requests is not None
    assert plan.demand.requests >= sum(trial.requests for trial in plan.trials) * 0.5
    if experiment.open(params, load_settings()).in_process is None:
        assert plan.demand.tokens is not None


@pytest.mark.parametrize("what", [(), ("--profile", "default"), ("--set", "repeats=2")])
def test_a_large_run_is_refused_in_one_line_and_leaves_nothing(monkeypatch, capsys, elsewhere, outputs, what):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("something was sent"))
    assert run(monkeypatch, "run", "batch_benchmark", *what) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "--yes" in said
    assert "requests" in said
    assert "CANARY" not in said
    assert not outputs.exists()


def test_stages_notebooks_and_all_are_refused_too(monkeypatch, capsys, elsewhere, outputs):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("something was sent"))
    for words in (("stage", "all", "-c", "params/batch_benchmark/default.yaml"), ("run", "all")):
        monkeypatch.chdir(experiments.paths.home())
        assert run(monkeypatch, *words) == 2
        assert "--yes" in capsys.readouterr().err
    with pytest.raises(InputError, match="yes=True"):
        kv.open("batch_benchmark", profile="default")
    assert not outputs.exists()


@pytest.mark.parametrize("answer", [True, False])
def test_a_terminal_is_asked(monkeypatch, answer):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("typer.confirm", lambda text, **_: asked.append(text) or answer)
    if answer:
        consent.require("it sends much", yes=False)
    else:
        with pytest.raises(InputError, match="nothing was sent"):
            consent.require("it sends much", yes=False)
    assert len(asked) == 1


def test_a_yes_a_small_plan_and_this_machine_need_no_question(monkeypatch, elsewhere):
    consent.require("it sends much", yes=True)
    consent.require(None, yes=False)
    experiment = experiments.get("token_sweep")
    params = resolve(experiment.Params, "token_sweep", profile="smoke").params
    small = Demand(10, 1000, 10)
    assert spending.objection(experiment, params, small, load_settings()) is None
    for large in (
        Demand(1001, 1, 1),
        Demand(1, 1_000_000, 1),
        Demand(1, None, 1),
        Demand(None, 1, 1),
        Demand(),
    ):
        assert spending.objection(experiment, params, large, load_settings())
    monkeypatch.setenv("KVLAB_ASK_ABOVE_REQUESTS", "5000")
    assert spending.objection(experiment, params, Demand(1001, 1, 1), load_settings()) is None
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert spending.objection(experiment, params, Demand(), load_settings()) is None


def test_what_runs_in_this_process_needs_no_yes(elsewhere):
    experiment = experiments.get("prefix_hit_miss")
    params = resolve(experiment.Params, "prefix_hit_miss", profile="smoke").params
    assert spending.objection(experiment, params, Demand(), load_settings()) is None


def test_money_needs_both_prices(monkeypatch):
    experiment = experiments.get("batch_benchmark")
    demand = Demand(10, 2_000_000, 1_000_000)

    def money(**given):
        params = experiment.Params.check({**resolve(experiment.Params, "batch_benchmark", profile="smoke").params.model_dump(), **given})  # fmt: skip
        return spending.money(demand, params, load_settings())

    assert money() is None
    assert money(price_per_million_prompt_tokens=1.0) is None
    assert money(price_per_million_prompt_tokens=1.0, price_per_million_completion_tokens=3.0) == 5.0
    monkeypatch.setenv("KVLAB_PRICE_PER_MILLION_PROMPT_TOKENS", "2")
    monkeypatch.setenv("KVLAB_PRICE_PER_MILLION_COMPLETION_TOKENS", "0")
    assert money() == 4.0
    assert money(price_per_million_prompt_tokens=1.0) == 2.0
