"""``index.html``: the runs of a day, or of all days, with verdicts, the picture that matters, and why a run failed.

A view of what others have written, so no reason for a run to fail: what is odd in a folder is left out, and the
others are listed.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from kvlab import paths
from kvlab.errors import KvlabError
from kvlab.escape import line
from kvlab.report import badge, render
from kvlab.runs.files import read_json, sweep_stale, write_atomic
from kvlab.runs.folder import MANIFEST, SUMMARY
from kvlab.runs.status import reconcile

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MOST_CHARACTERS, _MOST_REASONS = 300, 5
#: The newest runs that one page lists: a browser filters so many at once, and each costs three files to read.
MOST_RUNS = 1000
#: What marks a page as one of these; an ``index.html`` without it is somebody else's.
_MARK = '<meta name="generator" content="kvlab">'


def row(folder: Path) -> dict[str, Any]:
    """Return what a list of runs shows of one, each value a line of text; ``None`` for what is missing or odd.

    A folder may have been made by anybody: whatever is in it, the others are listed.
    """
    manifest, summary = read_json(folder / MANIFEST), read_json(folder / SUMMARY)
    identity = _part(manifest, "endpoint_identity")
    brief = _part(summary, "brief")
    figure = _part(brief, "figure")
    state = reconcile(folder)
    status, verdict = _text(state.get("status")), _text(summary.get("verdict"))
    verdict = verdict if verdict in badge.WORDS else None
    return {
        "name": folder.name,
        "folder": folder,
        "experiment": _text(manifest.get("experiment")),
        "profile": _text(manifest.get("profile")),
        "model": _text(identity.get("model")),
        "server": " ".join(filter(None, (_text(identity.get("kind")), _text(identity.get("version")))))
        or None,
        "status": status,
        "verdict": verdict,
        "headline": _text(brief.get("sentence")) or _text(summary.get("headline")),
        "figure": _text(figure.get("value")),
        "label": _text(figure.get("label")),
        "reasons": _reasons(verdict, status, summary, state),
        "picture": _picture(folder, brief),
    }


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    found = content.get(name)
    return found if isinstance(found, dict) else {}


def _reasons(
    verdict: str | None, status: str | None, summary: dict[str, Any], state: dict[str, Any]
) -> list[str]:
    """Return why a run is no PASS, or has not come to its end."""
    given = summary.get("reasons") if verdict in ("FAIL", "INVALID") else None
    found = [_text(reason) for reason in given] if isinstance(given, list) else []
    ended = _text(state.get("reason")) if status in ("failed", "interrupted") else None
    return [reason for reason in (ended, *found[:_MOST_REASONS]) if reason]


def _picture(folder: Path, brief: dict[str, Any]) -> str | None:
    """Return the file of the picture that matters; of a run that names none, the first."""
    there = sorted(path.name for path in (folder / "plots").glob("*.png"))
    named = f"{_text(brief.get('picture'))}.png"
    return named if named in there else next(iter(there), None)


def _text(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    found = line(value).strip()
    return found if len(found) <= _MOST_CHARACTERS else f"{found[:_MOST_CHARACTERS]}…"


def write_index(day: Path) -> Path | None:
    """Write the index of ``outputs/YYYY-MM-DD``, and that of all days. Returns the former; ``None``: there is none.

    A folder that is no day's (a run that was copied somewhere) has no index: an ``index.html`` there is
    somebody else's.
    """
    if not _DAY.fullmatch(day.name):
        return None
    if _is_outputs(day.parent):
        _write(day.parent, "all days", runs(day.parent), back=False)
    return _write(day, day.name, _of_day(day), back=True)


def runs(outputs: Path) -> Iterator[Path]:
    """Yield the run folders of all days, the newest first."""
    days = (path for path in outputs.glob("*-*-*") if _DAY.fullmatch(path.name))
    for day in sorted(days, reverse=True):
        yield from _of_day(day)


def _of_day(day: Path) -> list[Path]:
    return sorted((path.parent for path in day.glob("*/status.json")), reverse=True)


def _is_outputs(folder: Path) -> bool:
    """Whether a folder is that of all runs, whose index is ours to write."""
    try:
        return folder.resolve() == paths.outputs_dir().resolve()
    except (KvlabError, OSError):
        return False


def _write(place: Path, title: str, folders: Iterator[Path] | Sequence[Path], *, back: bool) -> Path | None:
    path = place / "index.html"
    if _is_a_strangers(path):
        return None
    shown = list(islice(folders, MOST_RUNS + 1))
    rows = [{**row(folder), "link": folder.relative_to(place).as_posix()} for folder in shown[:MOST_RUNS]]
    script = render.script("day.js")
    text = render.environment().get_template("day.html.jinja").render(
        title=title, rows=rows, back=back, cut=len(shown) > MOST_RUNS, script=script,
        policy=render.content_policy(script, images="'self' file:"),
        experiments=sorted({run["experiment"] for run in rows if run["experiment"]}),
        states=sorted({run["verdict"] or run["status"] or "unknown" for run in rows}),
    )  # fmt: skip
    try:
        write_atomic(path, text.encode(errors="replace"))
    except OSError:
        return None
    sweep_stale(place)
    return path


def _is_a_strangers(path: Path) -> bool:
    """Whether there is a page that no kvlab has written: those before this mark are known by their title."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            start = file.read(4096)
    except OSError:
        return False
    return _MARK not in start and "<title>kvlab runs of" not in start
