"""Progress in a notebook, in a log and in a terminal."""

import sys
from types import SimpleNamespace

import pytest

from kvlab.runs import progress
from kvlab.runs.progress import Steps


def walk(steps, stop_after=None):
    for n, item in enumerate(steps.over("abc")):
        steps.note(f"{item} is under way")
        if n == stop_after:
            break
        steps.step(f"{item} failed" if item == "b" else f"{item} done", keep=item == "b")


@pytest.fixture
def cell(monkeypatch):
    """A notebook's kernel whose displays are kept: one list of states for each."""
    shown = []

    class Handle:
        def __init__(self, states):
            self.states = states

        def update(self, found):
            self.states.append(repr(found))

    def display(found, display_id):
        assert display_id
        shown.append([repr(found)])
        return Handle(shown[-1])

    import IPython
    import IPython.display

    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(IPython.display, "display", display)
    return shown


def test_a_log_has_a_line_a_step_with_the_time_left(monkeypatch, capsys):
    monkeypatch.setenv("KVLAB_PROGRESS", "lines")
    walk(Steps(3, "trial"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("[1/3] a done · ")
    assert lines[1].endswith(" s left")
    assert lines[-1] == "[3/3] c done"


def test_a_notebook_has_one_output_whose_last_state_is_short(cell, capsys):
    walk(Steps(3, "trial"))
    assert capsys.readouterr().out == ""
    (states,) = cell
    assert any("1 of 3 trials · " in state and "s left" in state for state in states)
    last = states[-1].splitlines()
    assert "3 of 3 trials · done in" in last[0]
    assert last[1:] == ["b failed"], "what failed is kept, and no more"


def test_a_loop_that_is_left_says_how_to_go_on(cell):
    walk(Steps(3, "trial"), stop_after=1)
    assert "1 of 3 trials · stopped after" in cell[0][-1]
    assert "run this cell again to go on" in cell[0][-1]


def test_many_failures_are_counted_and_what_they_say_is_bounded(cell):
    steps = Steps(100, "trial")
    for _ in steps.over(range(100)):
        steps.step("\x1b[31m" + "x" * 10_000, keep=True)
    last = cell[0][-1]
    assert "and 80 more that failed" in last
    assert "\x1b" not in last
    assert len(last) < 20_000


@pytest.mark.parametrize(
    ("command", "lines"), [(["python", "/bin/papermill", "a.ipynb"], True), (["jupyter-lab"], False)]
)
def test_under_papermill_a_kernel_writes_a_log(cell, monkeypatch, capsys, command, lines):
    monkeypatch.setattr("psutil.Process", lambda _: SimpleNamespace(cmdline=lambda: command))
    walk(Steps(3, "trial"))
    assert bool(capsys.readouterr().out) is lines
    assert bool(cell) is not lines


def test_a_terminal_has_one_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    walk(Steps(3, "trial"))
    said = capsys.readouterr()
    assert said.out == ""
    assert "3/3" in said.err
    assert "b failed" in said.err
    assert not progress.in_kernel()
