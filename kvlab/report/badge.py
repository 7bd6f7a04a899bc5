"""What a notebook shows of a finished run: the verdict as a badge with words, and links to what was written."""

import os
from html import escape
from pathlib import Path
from urllib.parse import quote

from kvlab.findings import Summary, Verdict

_COLOURS = {Verdict.PASS: "#006d4f", Verdict.FAIL: "#b3261e", Verdict.INVALID: "#5f6368"}
_WORDS = {
    Verdict.PASS: "the states are proven and every criterion holds",
    Verdict.FAIL: "the states are proven, and a criterion does not hold",
    Verdict.INVALID: "no answer: something is not proven, or the data are too few",
}


def html(summary: Summary, folder: Path | None = None) -> str:
    """Return the badge, the headline, the reasons, the next step and, with ``folder``, links to the report."""
    badge = (
        f'<span style="background-color:{_COLOURS[summary.verdict]};color:white;padding:2px 10px;'
        f'border-radius:10px;font-weight:bold">{summary.verdict}</span> {escape(_WORDS[summary.verdict])}'
    )
    lines = "".join(f"<li>{escape(line)}</li>" for line in summary.reasons)
    todo = "".join(f"<li>{escape(line)}</li>" for line in next_steps(summary))
    return (
        f"<div><p>{badge}</p><p><b>{escape(summary.headline)}</b></p><ul>{lines}</ul>"
        f"{f'<p>Next:</p><ul>{todo}</ul>' if todo else ''}{'' if folder is None else _links(folder)}</div>"
    )


def next_steps(summary: Summary) -> list[str]:
    """Return what to do about the checks that did not pass."""
    open_ = [check for check in summary.checks if check.passed is not True and check.role != "note"]
    return list(dict.fromkeys(check.advice for check in open_ if check.advice))


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
