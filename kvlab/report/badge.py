"""What a notebook shows of a finished run: the verdict as a badge with words, and links to what was written."""

import os
from html import escape
from pathlib import Path

from kvlab.findings import Summary, Verdict

_COLOURS = {Verdict.PASS: "#006d4f", Verdict.FAIL: "#b3261e", Verdict.INVALID: "#5f6368"}
_WORDS = {
    Verdict.PASS: "the states are proven and every criterion holds",
    Verdict.FAIL: "the states are proven, and a criterion does not hold",
    Verdict.INVALID: "no answer: something is not proven, or the data are too few",
}


def html(summary: Summary, folder: Path | None = None, *, reasons: int = 3) -> str:
    """Return the badge, the headline, the first reasons and, with ``folder``, links to the report."""
    badge = (
        f'<span style="background:{_COLOURS[summary.verdict]};color:white;padding:2px 10px;border-radius:10px;'
        f'font-weight:bold">{summary.verdict}</span> {escape(_WORDS[summary.verdict])}'
    )
    lines = "".join(f"<li>{escape(line)}</li>" for line in summary.reasons[:reasons])
    more = len(summary.reasons) - reasons
    if more > 0:
        lines += f"<li>and {more} more, in the report</li>"
    return (
        f"<div><p>{badge}</p><p><b>{escape(summary.headline)}</b></p><ul>{lines}</ul>"
        f"{'' if folder is None else _links(folder)}</div>"
    )


def _links(folder: Path) -> str:
    shown = []
    for name, words in (("report.html", "report"), ("requests.csv", "every request"), ("", "run folder")):
        path = os.path.relpath(folder / name)
        shown.append(f'<a href="{escape(path, quote=True)}" target="_blank">{words}</a>')
    again = f"kvlab.load({str(Path(folder.parent.name) / folder.name)!r})"
    return f"<p>{' · '.join(shown)} · read it again: <code>{escape(again)}</code></p>"
