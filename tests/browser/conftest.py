"""A browser and a JupyterLab, once for all tests of this folder; each test has a copy of the project in it."""

import os
import shutil

import pytest

from benchmarks.servers.process import FakeServer
from kvlab.settings import Settings
from tests.browser.lab import FLAGS, Notebook, chromium, lab
from tests.conftest import ROOT


@pytest.fixture(scope="session")
def browser():
    pytest.importorskip("playwright", reason="playwright is not installed (the extra `dev` has it)")
    path = chromium()
    if path is None:
        pytest.skip("no Chromium found: install one (apt-get install chromium), or name it in KVLAB_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as found:
        opened = found.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


def environment(place, **more):
    """Return an environment without anybody's settings; the project is found from the notebook's folder."""
    ours = {name.upper() for name in Settings.model_fields} | {
        "KVLAB_HOME",
        "KVLAB_OUTPUTS",
        "KVLAB_HEADLESS",
    }
    (place / "empty.env").touch()
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"KVLAB_ENV_FILE": str(place / "empty.env")} | more


@pytest.fixture(scope="session")
def on_the_test_server(browser, tmp_path_factory):
    """JupyterLab with the test server as its endpoint: its address and its root."""
    place = tmp_path_factory.mktemp("lab")
    with FakeServer(base_ms=30, itl_ms=2, ms_per_uncached_token=0.2) as server:
        names = {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "EMPTY", "OPENAI_MODEL": "fake"}
        with lab(place / "root", place, environment(place, **names)) as address:
            yield address, place / "root"


@pytest.fixture(scope="session")
def on_the_engine(browser, tmp_path_factory):
    """The same with the embedded engine."""
    place = tmp_path_factory.mktemp("lab")
    with lab(place / "root", place, environment(place)) as address:
        yield address, place / "root"


@pytest.fixture
def page(browser):
    found = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield found
    found.close()


@pytest.fixture
def opened(page, request):
    """Open a notebook of a project of its own: returns it, and the project's folder."""

    def open_(name, server="on_the_test_server"):
        address, root = request.getfixturevalue(server)
        project = root / f"project-{len(list(root.iterdir()))}"
        shutil.copytree(ROOT / "notebooks", project / "notebooks")
        shutil.copytree(ROOT / "params", project / "params")
        return Notebook(page, address, f"{project.name}/notebooks/{name}.ipynb"), project

    return open_
