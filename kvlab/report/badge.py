"""What a notebook shows of a finished run: the verdict as a badge with words, what to do next, and links to what was written."""

import os
from html import escape
from pathlib import Path
from urllib.parse import quote

from kvlab.brief import steps
from kvlab.findings import Summary, Verdict, in_the_way

_COLOURS = {Verdict.PASS: "#00684a", Verdict.FAIL: "#b3261e", Verdict.INVALID: "#7a4b00"}
WORDS = {
    Verdict.PASS: "the measurement is sound, and no criterion is broken",
    Verdict.FAIL: "the measurement is sound, and a criterion is broken",
    Verdict.INVALID: "no answer yet: something is not proven, or the data are too few",
}


def html(summary: Summary, folder: Path | None = None) -> str:
    """Return the badge, the first sentence, the figure that matters, what to do next and, with ``folder``, links.

    Of a verdict that is no PASS, its reasons are there in full, too.
    """
    first = summary.first
    badge = (
        f'<span style="background-color:{_COLOURS[summary.verdict]};color:white;padding:2px 10px;border-radius:10px;'
        f'font-weight:bold">{summary.verdict}</span> {escape(WORDS[summary.verdict])}'
    )
    lines = [] if summary.verdict is Verdict.PASS else summary.reasons
    figure = f"<p><b>{escape(first.figure.value)}</b> {escape(first.figure.label)}<br><small>{escape(first.figure.interval)}</small></p>"
    return (
        f"<div><p>{badge}</p><p><b>{escape(first.sentence)}</b></p>{figure}{_list('Why', lines)}"
        f"{_list('What to do next', next_steps(summary))}{'' if folder is None else _links(folder)}</div>"
    )


def next_steps(summary: Summary) -> list[str]:
    """Return what to do next; of a summary that was stored without it, what its checks advise."""
    return summary.next or steps(in_the_way(summary.checks)[1], summary.first.then)


def _list(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    return f"<p>{title}:</p><ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def link(path: Path, words: str) -> str:
    """Return a link that works in the notebook that shows it: relative to its folder."""
    target = Path(os.path.relpath(path, _place(path))).as_posix()
    return f'<a href="{escape(quote(target), quote=True)}" target="_blank">{escape(words)}</a>'


def _place(path: Path) -> Path:
    """Return the folder of the notebook: its own where Jupyter says which, the run's under the runner."""
    if "KVLAB_HEADLESS" in os.environ:  # the runner keeps the executed notebook in the run folder
        return path if path.is_dir() else path.parent
    notebook = Path(os.environ.get("JPY_SESSION_NAME", ""))
    return notebook.parent if notebook.is_absolute() and notebook.parent.is_dir() else Path.cwd()


def _links(folder: Path) -> str:
    # A folder is named and not linked: JupyterLab opens files only.
    shown = " · ".join(
        link(folder / name, words)
        for name, words in (("report.html", "report"), ("requests.csv", "every request"))
    )
    again = f"kvlab.load({str(Path(folder.parent.name) / folder.name)!r})"
    return f"<p>{shown} · {place(folder)} · read it again: <code>{escape(again)}</code></p>"


def place(folder: Path) -> str:
    """Return where a run folder is, as seen from the notebook."""
    return f"<code>{escape(Path(os.path.relpath(folder, _place(folder))).as_posix())}</code>"
