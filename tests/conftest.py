"""Every test has an environment of its own: no .env, no endpoint, no outputs of the user's."""

import dataclasses
import functools
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from benchmarks.servers.process import FakeServer
from kvlab import experiments, paths
from kvlab.laws.law import CacheLaw
from kvlab.params import resolve
from kvlab.serving import embedded
from kvlab.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("kvlab", deadline=None)
hypothesis.settings.load_profile("kvlab")
_engine_tests: list[str] = []
_held: list[embedded.Lease] = []


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path):
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    empty = tmp_path / "empty.env"
    empty.touch()
    monkeypatch.setenv("KVLAB_ENV_FILE", str(empty))
    monkeypatch.setenv("KVLAB_HOME", str(ROOT))
    monkeypatch.setenv("KVLAB_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("KVLAB_LAWS", str(tmp_path / "laws"))


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


@pytest.fixture
def point_at(monkeypatch):
    """Point the settings at a server."""

    def point(server: FakeServer, key: str = "EMPTY", model: str = "fake") -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", key)
        monkeypatch.setenv("OPENAI_MODEL", model)

    return point


@pytest.fixture
def serving(point_at):
    """Start servers whose cache follows a known law, at no cost of time; the settings point at the last one."""
    with ExitStack() as opened:

        def serve(law: CacheLaw, **options: Any) -> FakeServer:
            quick = {"base_ms": 0, "itl_ms": 0, "output_tokens": 1, "max_model_len": 8192}
            server = opened.enter_context(FakeServer(**quick, law=dataclasses.asdict(law), **options))
            point_at(server)
            return server

        yield serve


@pytest.fixture(scope="session")
def engine():
    """The embedded server, held from the first test that wants it: it takes a minute to start."""
    _held.append(embedded.acquire(cache_dir=paths.cache_dir()))
    yield _held[0]
    _give_back()


@pytest.fixture
def alone():
    """No server beside this test: its threads would share the cores with an engine in the test's process."""
    _give_back()


def _give_back():
    while _held:
        _held.pop().release()


def pytest_collection_modifyitems(items):
    """First what has no engine, then what shares the server, then what must be alone."""
    items.sort(key=lambda item: (item.get_closest_marker("engine") is not None, _wants_to_be_alone(item)))


def _wants_to_be_alone(item):
    if item.get_closest_marker("engine") is None:
        return False
    name = getattr(item, "callspec", None) and item.callspec.id
    return "alone" in item.fixturenames or name in in_process()


@functools.cache
def in_process():
    """Return the notebooks of experiments that load an engine into their own process."""
    found = set()
    for name, experiment in experiments.registry().items():
        params = resolve(experiment.Params, name, profile="smoke").params
        if experiment.open(params, load_settings()).in_process is not None:
            found.add(experiments.notebook(name).stem)
    return found


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed and "engine" in report.keywords:
        _engine_tests.append(report.nodeid)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{len(_engine_tests)} tests ran on the real engine (vLLM, packaged model)")
