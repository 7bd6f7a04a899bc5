"""What a notebook sees of a run: the verdict once, changed parameters, an interrupt in one line, objects that show themselves."""

import json
from types import SimpleNamespace

import IPython
import IPython.display
import pytest

import kvlab as kv
from benchmarks.servers.process import FakeServer
from kvlab.findings import Check, Findings, Picture, Summary, Verdict
from kvlab.notebook import Interrupted
from kvlab.report import badge, figures
from kvlab.stats.intervals import Interval

SMALL = {
    "token_targets": [300], "repeats": 2, "position_controls": 0, "max_tokens": 3, "manual_sections": 40,
}  # fmt: skip


@pytest.fixture
def server(point_at):
    with FakeServer(base_ms=1, itl_ms=2, ms_per_uncached_token=0.02) as found:
        point_at(found)
        yield found


@pytest.fixture
def cell(monkeypatch):
    """A kernel in which a cell is running; what it displays is kept as text."""
    shown = []
    shell = SimpleNamespace(kernel=object(), execution_count=1)

    def display(*found, raw=False, **_):
        for item in found:
            own = None if raw else getattr(item, "_ipython_display_", None)
            if own is not None:
                own()
            else:
                shown.append(item["text/html"] if raw else repr(item))
        return SimpleNamespace(update=lambda _: None)

    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    monkeypatch.setattr(IPython.display, "display", display)
    return SimpleNamespace(shown=shown, shell=shell)


def measured(run):
    for trial in run.pending():
        run.measure(trial)


def badges(cell):
    return [text for text in cell.shown if "report.html" in text]


def test_the_verdict_is_a_badge_with_links_and_is_shown_once(server, outputs, cell, capsys):
    run = kv.open("token_sweep", **SMALL)
    measured(run)
    summary = run.finish()
    summary._ipython_display_()  # as the cell's last value
    (shown,) = badges(cell)
    assert str(summary.verdict) in shown
    assert f"kvlab.load(&#x27;{run.folder.parent.name}/{run.folder.name}&#x27;)" in shown
    assert summary.headline not in capsys.readouterr().out, "not a second time as a line"
    cell.shell.execution_count += 1
    summary._ipython_display_()
    assert len(badges(cell)) == 2, "another cell shows it again"
    run.finish()
    assert len(badges(cell)) == 3


def test_all_can_be_read_and_shows_itself_before_and_after_the_end(server, outputs):
    run = kv.open("token_sweep", **SMALL)
    assert "0 of 2 trials" in run._repr_html_()
    assert "measure what is left" in repr(run)
    measured(run)
    assert "run.finish() writes the report" in repr(run)
    run.finish()
    assert "finished: " in run._repr_html_()
    assert "cached_tokens" in run.facts()._repr_html_()
    for shown in (
        run.checks(),
        run.table("token_sweep"),
        run.findings(),
        kv.load(run.folder),
        run.findings().tables[0],
    ):
        text = shown._repr_html_()
        assert text
        assert not {"NaN", "None", "…"} & set(text.replace("<", " ").replace(">", " ").split())
    assert run.findings().pictures[0]._repr_png_().startswith(b"\x89PNG")


def test_a_run_that_was_closed_says_how_to_go_on(server, outputs):
    run = kv.open("token_sweep", **SMALL)
    run.abandon()
    assert f"run_dir={str(run.folder)!r}" in repr(run)


def test_a_parameter_changed_behind_the_last_trial_is_said_with_the_verdict(server, outputs, capsys):
    cell = {**SMALL, "profile": "mine"}
    run = kv.open("token_sweep", cell)
    measured(run)
    cell["repeats"] = 9
    run.finish()
    assert "repeats is 9 now; this run was measured with 2" in capsys.readouterr().out
    stored = json.loads((run.folder / "manifest.json").read_text())
    assert stored["contract"]["params"]["repeats"] == 2


@pytest.mark.parametrize("in_kernel", [True, False])
def test_an_interrupt_is_one_line_in_a_notebook(server, outputs, request, in_kernel):
    if in_kernel:
        request.getfixturevalue("cell")
    run = kv.open("token_sweep", **SMALL)

    def interrupted(call):
        raise KeyboardInterrupt

    ask, run.engine.ask = run.engine.ask, interrupted
    with pytest.raises(KeyboardInterrupt) as stopped:
        measured(run)
    assert isinstance(stopped.value, Interrupted) is in_kernel
    if in_kernel:
        (line,) = stopped.value._render_traceback_()
        assert "run this cell again to go on" in line
    with pytest.raises(KeyboardInterrupt) as stopped:
        run.warm_up()
    assert isinstance(stopped.value, Interrupted) is in_kernel
    run.engine.ask = ask
    run.warm_up()
    measured(run)
    assert run.requests.query("used and arm == 'cold'")["cache_state"].eq("cold").all()
    run.close()


def test_links_lead_from_the_notebook_to_the_run(tmp_path, monkeypatch):
    folder = tmp_path / "outputs" / "2026-01-01" / "1 & 'one'"
    folder.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "notebooks" / "01.ipynb"))
    assert 'href="../outputs/2026-01-01/1%20%26%20%27one%27/report.html"' in badge.link(
        folder / "report.html", "report"
    )
    monkeypatch.setenv("JPY_SESSION_NAME", "not a path")
    assert 'href="outputs/2026-01-01/' in badge.link(folder / "report.html", "report")
    monkeypatch.setenv("KVLAB_HEADLESS", "{}")  # the executed notebook is kept in the run folder
    assert 'href="report.html"' in badge.link(folder / "report.html", "report")
    assert badge.place(folder) == "<code>.</code>"


def test_a_badge_holds_every_reason_in_full_and_what_to_do_next():
    reasons = [f"reason {n} <b>" + "x" * 500 for n in range(12)]
    check = Check(
        name="states", asks="proven?", seen="0 of 8", passed=None, advice="set KV_BLOCK_SIZE_TOKENS"
    )
    summary = Summary(experiment="e", profile="p", verdict=Verdict.INVALID, headline="none", reasons=reasons, checks=[check], results={})  # fmt: skip
    html = badge.html(summary)
    assert all(f"reason {n} &lt;b&gt;" + "x" * 500 in html for n in range(12))
    assert "Set KV_BLOCK_SIZE_TOKENS" in html
    assert "<a " not in html, "no folder, no links"
    assert "unknown" in check._repr_html_()
    assert "set KV_BLOCK_SIZE_TOKENS" in check._repr_html_()


def test_an_answer_shows_its_state_and_what_it_rests_on(server):
    with kv.connect() as found:
        prompt = found.prompt(tokens=400)
        cold, hit = found.ask(prompt), found.ask(prompt)
        assert "0 cached tokens" in cold._repr_html_()
        evidence = dict(hit.evidence().itertuples(index=False))
        assert evidence["the answer's usage: cached tokens"] == 384
        assert evidence["the server's counters, after minus before: cached tokens"] == 384
        assert evidence["the cache's law: cached tokens of a full hit"] == 384
        timeline = hit.timeline(found.ask(prompt), cold)
        assert [name for name, _ in timeline.rows] == ["hit 1", "hit 2", "cold"]
        assert list(found.facts()["holds"])


def test_an_estimate_and_a_picture_show_themselves():
    assert "0.5" in Interval(0.5, None, None, 3, 0.95, reason="too <few>")._repr_html_()
    assert "too &lt;few&gt;" in Interval(0.5, None, None, 3, 0.95, reason="too <few>")._repr_html_()
    assert "(0.4 to 0.6)" in Interval(0.5, 0.4, 0.6, 30, 0.95, method="m")._repr_html_()
    picture = Picture("p", "P", "", lambda: figures.new("t", "x", "y")[0])
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert "INVALID" in Findings("nothing", [], {})._repr_html_()
