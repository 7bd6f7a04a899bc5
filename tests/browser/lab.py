"""JupyterLab in a process of its own, and a headless browser that a test drives as a person would."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import ROOT

START_S = 90.0
CELLS_S = 90.0
TOKEN = "for-this-test"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def chromium() -> str | None:
    """Return the browser, or ``None`` where there is none."""
    named = os.environ.get("KVLAB_CHROMIUM")
    names = [named] if named else ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    return next((path for name in names if (path := shutil.which(name))), None)


@contextlib.contextmanager
def lab(root: Path, place: Path, environment: dict[str, str]) -> Iterator[str]:
    """Serve a folder in JupyterLab, with settings and workspaces of its own. Yields its address."""
    root.mkdir(exist_ok=True)
    runtime = place / "runtime"
    own = {
        "JUPYTER_RUNTIME_DIR": runtime, "JUPYTER_CONFIG_DIR": place / "config", "JUPYTER_DATA_DIR": place / "data",
        "JUPYTERLAB_SETTINGS_DIR": place / "settings", "JUPYTERLAB_WORKSPACES_DIR": place / "workspaces",
        "IPYTHONDIR": place / "ipython", "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONPATH": ROOT,
    }  # fmt: skip
    settings = place / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    news = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(news))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port=0",
               f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={root}"]  # fmt: skip
    log = (place / "lab.log").open("w")
    process = subprocess.Popen(
        command, cwd=root, env=environment | {k: str(v) for k, v in own.items()}, stdout=log, stderr=log
    )
    try:
        yield _address(process, runtime, place / "lab.log")
    finally:
        _end(process)
        log.close()


def _address(process: subprocess.Popen[bytes], runtime: Path, log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            with contextlib.suppress(ValueError, KeyError):
                port = json.loads(path.read_text())["port"]
                if port:
                    return f"http://127.0.0.1:{port}"
        time.sleep(0.1)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its kernels."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=15)
    if process.poll() is None:
        process.kill()
        process.wait()
    for child in psutil.wait_procs(family, timeout=5)[1]:
        child.kill()


class Notebook:
    """A notebook that is open in JupyterLab."""

    def __init__(self, page: Any, address: str, path: str) -> None:
        self.page = page
        page.goto(f"{address}/lab/tree/{path}?token={TOKEN}&reset", timeout=START_S * 1000)
        page.wait_for_selector(".jp-NotebookPanel .jp-Notebook .jp-Cell", timeout=START_S * 1000)
        # Before the kernel is there and idle, a menu would ask for one.
        idle = page.locator(".jp-StatusBar-TextItem", has_text=re.compile(r"\| Idle$")).first
        idle.wait_for(timeout=START_S * 1000)
        page.wait_for_timeout(500)

    def menu(self, bar: str, entry: str) -> None:
        """Choose an entry of a menu, by its words."""
        self.page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{bar}$")).click()
        self.page.locator(".lm-Menu-item", has_text=re.compile(f"^{entry}")).first.click()

    def cell(self, part: str) -> Any:
        """Return the code cell in whose source something stands."""
        return self.page.locator(".jp-CodeCell").filter(
            has=self.page.locator(".jp-InputArea-editor", has_text=part)
        ).first  # fmt: skip

    def text(self, part: str) -> str:
        """Return the output of a cell."""
        found: list[str] = self.cell(part).locator(".jp-Cell-outputArea").all_text_contents()
        return "\n".join(found)  # text, not what is laid out: what is scrolled away is not laid out

    def waits(self, part: str, words: str, *, seconds: float = CELLS_S, errors: int = 0) -> None:
        """Wait until a cell's output holds some words; more errors than are meant to be there end the wait."""
        output = self.cell(part).locator(".jp-Cell-outputArea")
        deadline = time.monotonic() + seconds
        while words not in (said := "\n".join(output.all_text_contents())):
            found = self.errors()
            if len(found) > errors or time.monotonic() > deadline:
                raise AssertionError(f"no {words!r} in {said[-500:]!r}; errors: {found}")
            self.page.wait_for_timeout(100)

    def finished(self, seconds: float) -> None:
        """Wait until every code cell has run."""
        prompts = self.page.locator(".jp-CodeCell .jp-InputPrompt")
        deadline = time.monotonic() + seconds
        while any(text.strip(" :") in ("[ ]", "[*]") for text in prompts.all_text_contents()):
            if self.errors() or time.monotonic() > deadline:
                raise AssertionError(f"not finished: {prompts.all_text_contents()}; errors: {self.errors()}")
            self.page.wait_for_timeout(250)

    def whole_text(self) -> str:
        """Return all that it shows."""
        found: str = self.page.locator(".jp-NotebookPanel .jp-Notebook").first.evaluate("e => e.textContent")
        return found

    def tables(self) -> list[str]:
        """Return the text of each table that a cell has put out."""
        tables = self.page.locator(".jp-OutputArea-output table")
        found: list[str] = tables.evaluate_all(
            "found => found.map(e => [...e.querySelectorAll('td, th')].map(c => c.textContent).join(' '))"
        )
        return found

    def save(self) -> None:
        """Save it, as with the keyboard."""
        self.page.locator(".jp-NotebookPanel .jp-Notebook .jp-Cell .jp-InputPrompt").first.click()
        self.page.keyboard.press("Control+s")
        self.page.locator(".lm-DockPanel-tabBar .jp-mod-dirty").wait_for(
            state="detached", timeout=START_S * 1000
        )
        self.page.wait_for_timeout(300)

    def errors(self) -> list[str]:
        """Return the text of every output that is an error."""
        found: list[str] = self.page.locator(
            '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.stderr"],'
            '.jp-OutputArea-output[data-mime-type="application/vnd.jupyter.error"]'
        ).all_text_contents()
        return found

    def replace(self, part: str, old: str, new: str) -> None:
        """Change a line of a cell, as with the keyboard."""
        line = self.cell(part).locator(".cm-line", has_text=old).first
        line.scroll_into_view_if_needed()
        line.click()
        self.page.keyboard.press("Home")
        self.page.keyboard.press("Shift+End")
        self.page.keyboard.type(new)

    def run(self, part: str) -> None:
        """Run one cell."""
        self.select(part)
        self.page.keyboard.press("Control+Enter")

    def select(self, part: str) -> None:
        """Select a cell, without a cursor in it."""
        self.cell(part).locator(".jp-InputPrompt").click()

    def screenshots(self, folder: Path, name: str) -> int:
        """Write the notebook from top to bottom as pictures, a screen each. Returns how many."""
        folder.mkdir(parents=True, exist_ok=True)
        scroller = self.page.locator(".jp-WindowedPanel-outer").first
        count, top, whole = 0, 0, 1
        while top < whole:  # heights of cells that have not been seen yet are estimates
            scroller.evaluate("(e, y) => { e.scrollTop = y }", top)
            self.page.wait_for_timeout(400)
            self.page.screenshot(path=str(folder / f"{name}-{count:02d}.png"))
            height, whole = scroller.evaluate("e => [e.clientHeight, e.scrollHeight]")
            count, top = count + 1, top + height
        return count

    def is_dirty(self) -> bool:
        """Whether JupyterLab has something to save."""
        return bool(self.page.locator(".lm-DockPanel-tabBar .jp-mod-dirty").count())
