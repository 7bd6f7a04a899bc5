"""The doctor's word on endpoints: true, in one line, and within bounds of time."""

import socket
import time

import pytest

from benchmarks.servers.odd_server import OddServer, answer
from benchmarks.servers.process import FakeServer
from kvlab import experiments
from kvlab.command import doctor
from tests.command.test_cli import run

SECRET = "sk-CANARY-0123456789abcdef"


def ask(monkeypatch, capsys, url, model="fake", key="EMPTY", code=2):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("OPENAI_MODEL", model)
    assert run(monkeypatch, "doctor") == code
    found = capsys.readouterr()
    assert found.err == ""
    assert "\x1b" not in found.out
    return " ".join(found.out.split())


def asked_experiments():
    return [
        name for name in experiments.registry() if name not in ("prefix_hit_miss", "kv_budget_transition")
    ]


def nothing(text):
    """Whether no experiment that needs the endpoint is said to conclude anything, and all are named."""
    return all(f"{name} nothing: " in text for name in asked_experiments())


def test_a_dead_endpoint(monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    text = ask(monkeypatch, capsys, url)
    assert "does not answer" in text
    assert nothing(text)


def test_a_host_that_no_name_server_knows(monkeypatch, capsys):
    text = ask(monkeypatch, capsys, "http://no-such-host.invalid/v1")
    assert "does not answer" in text
    assert nothing(text)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "http://localhost:8000", "ftp://localhost/v1"])
def test_a_mistyped_url(monkeypatch, capsys, url):
    text = ask(monkeypatch, capsys, url)
    assert "NO endpoint OPENAI_BASE_URL" in text
    assert nothing(text)


@pytest.mark.parametrize("silent", ["at once", "after the model list"])
def test_a_silent_endpoint_is_given_up_in_time(monkeypatch, capsys, silent):
    """One that accepts and never answers, from the first page on or from the first request on."""
    monkeypatch.setattr(doctor, "ASK_S", 2.0)
    began = time.monotonic()
    if silent == "at once":
        with socket.create_server(("127.0.0.1", 0)) as server:
            text = ask(monkeypatch, capsys, f"http://127.0.0.1:{server.getsockname()[1]}/v1")
    else:

        def chat(_):
            time.sleep(6)
            return answer(10)

        with OddServer(chat) as server:
            text = ask(monkeypatch, capsys, server.base_url, model="m")
    assert "within 2 s" in text or "answers no chat request" in text
    assert nothing(text)
    assert time.monotonic() - began < 60


def test_a_wrong_key_is_named_and_not_shown(monkeypatch, capsys):
    with FakeServer(require_key="right") as server:
        text = ask(monkeypatch, capsys, server.base_url, key=SECRET)
    assert "OPENAI_API_KEY" in text
    assert "CANARY" not in text
    assert nothing(text)


def test_a_model_that_is_not_served(monkeypatch, capsys):
    with FakeServer() as server:
        text = ask(monkeypatch, capsys, server.base_url, model="another")
    assert "is not served there; it serves fake" in text
    assert nothing(text)


def test_no_model_is_named(monkeypatch, capsys):
    with FakeServer() as server:
        text = ask(monkeypatch, capsys, server.base_url, model="")
    assert "OPENAI_MODEL" in text
    assert nothing(text)


def test_a_server_that_reports_nothing_gives_times_only(monkeypatch, capsys):
    with FakeServer(base_ms=1, itl_ms=1, usage="no_details", persona="other") as server:
        text = ask(monkeypatch, capsys, server.base_url, code=0)
    assert text.count("times only, verdict INVALID") >= 2
    assert "context_limit_probe limits and times" in text


def test_a_good_server_and_a_profile_that_its_context_refuses(monkeypatch, capsys):
    with FakeServer(base_ms=1, itl_ms=1, max_model_len=8192) as server:
        text = ask(monkeypatch, capsys, server.base_url, code=0)
    assert "token_sweep cache states" in text
    assert "profile default is refused: token_targets: 40000" in text
    assert "verdict INVALID" not in text
