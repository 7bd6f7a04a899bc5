"""Notebooks in JupyterLab in a browser: opened, run, changed, interrupted, gone on with, finished."""

import json

import pytest

from kvlab import experiments
from tests.command.tool import folders, read, status
from tests.conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
MEASURE, FINISH = "run.measure(trial)", "run.finish()"


def test_start_here_runs_from_top_to_bottom(opened):
    book, _ = opened("00_start_here")
    book.menu("Run", "Run All Cells")
    book.waits("second run:", "second run: 5 hit")
    assert "first run:  5 cold" in book.text("second run:")
    assert book.cell("cold.timeline(hit)").locator("img").first.is_visible()
    assert "as predicted for a full hit" in book.text("hit.evidence()")
    assert "first token" in book.text("server.ask(prompt)")
    assert book.errors() == []


def test_a_run_is_changed_interrupted_gone_on_with_finished_and_its_report_opened(opened, page):
    book, project = opened("01_token_sweep")
    book.replace("token_targets", "repeats = 5", "repeats = 6")
    book.replace("token_targets", "position_controls", "position_controls = 0")
    book.menu("Run", "Run All Cells")
    book.waits(MEASURE, "2 of 24 trials")
    book.menu("Kernel", "Interrupt Kernel")
    book.waits(MEASURE, "Interrupted in", errors=1)
    assert "Traceback" not in book.text(MEASURE)
    assert "run this cell again to go on" in book.text(MEASURE)

    book.replace("token_targets", "repeats = 6", "repeats = 7")
    book.run("token_targets")
    book.run(MEASURE)
    book.waits(MEASURE, "repeats: 7 was 6 when this run was opened", errors=1)
    book.replace("token_targets", "repeats = 7", "repeats = 6")
    book.run("token_targets")
    book.select(MEASURE)
    book.menu("Run", "Run Selected Cell and All Below")
    book.waits(FINISH, "read it again")
    assert book.errors() == []

    (folder,) = folders(project / "outputs")
    assert status(folder) == "completed"
    assert "report" in book.text(FINISH)
    cold = read(folder, "SELECT cache_state, cached_tokens FROM requests JOIN responses USING (request_id) "
                        "WHERE arm = 'cold' AND measured = 1")  # fmt: skip
    assert len(cold) >= 24
    assert {tuple(row) for row in cold} == {("cold", 0)}, "also after the interrupt"

    book.cell(FINISH).locator("a", has_text="report").first.click()
    frame = page.frame_locator(".jp-HTMLViewer iframe")
    frame.locator("h1").wait_for(timeout=30_000)
    verdict = json.loads((folder / "summary.json").read_text())["verdict"]
    assert verdict in frame.locator("body").inner_text()


@pytest.mark.parametrize(
    "name", [*NOTEBOOKS[:2], *(pytest.param(n, marks=pytest.mark.every) for n in NOTEBOOKS[2:])]
)
def test_a_committed_notebook_opens_clean(opened, name):
    """What is stored shows without its kernel; saving it changes nothing; nothing in it is cut off or odd."""
    book, project = opened(name)
    path = project / "notebooks" / f"{name}.ipynb"
    before = json.loads(path.read_text())
    text = book.whole_text()
    assert "Loading widget" not in text
    assert book.errors() == []
    for table in book.tables():
        assert not {"NaN", "None", "nan", "<NA>"} & set(table.split()), table
        assert "…" not in table, table
        assert "..." not in table, table
    book.save()
    after = json.loads(path.read_text())
    assert after["cells"] == before["cells"]
    assert after["metadata"]["kernelspec"] == before["metadata"]["kernelspec"]


@pytest.mark.every
@pytest.mark.engine
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_notebook_runs_on_the_real_engine(opened, name):
    book, project = opened(name, "on_the_engine")
    book.menu("Run", "Run All Cells")
    book.finished(seconds=800)
    assert book.errors() == []
    if name[3:] in experiments.registry():
        (folder,) = folders(project / "outputs")
        assert status(folder) == "completed"
        assert "read it again" in book.text(FINISH)
