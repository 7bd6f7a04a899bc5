"""Every test has an environment of its own: no .env, no endpoint, no outputs of the user's."""

from pathlib import Path

import pytest

from kvlab import paths
from kvlab.serving import embedded
from kvlab.settings import Settings
from tests.fakes.process import FakeServer

ROOT = Path(__file__).resolve().parent.parent
_engine_tests: list[str] = []


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch, tmp_path):
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    empty = tmp_path / "empty.env"
    empty.touch()
    monkeypatch.setenv("KVLAB_ENV_FILE", str(empty))
    monkeypatch.setenv("KVLAB_HOME", str(ROOT))
    monkeypatch.setenv("KVLAB_OUTPUTS", str(tmp_path / "outputs"))


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


@pytest.fixture(scope="module")
def engine():
    """The embedded server, held for a module's tests: it takes a minute to start.

    Not for longer: its threads would share the cores with an engine inside another test's process.
    """
    with embedded.acquire(cache_dir=paths.cache_dir()) as lease:
        yield lease


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed and "engine" in report.keywords:
        _engine_tests.append(report.nodeid)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"{len(_engine_tests)} tests ran on the real engine (vLLM, packaged model)")
