"""``index.html`` of a day: all its runs, with verdicts and pictures."""

import re
from pathlib import Path
from typing import Any

from kvlab.escape import line
from kvlab.report import render
from kvlab.runs.files import read_json, sweep_stale, write_atomic
from kvlab.runs.folder import MANIFEST, SUMMARY
from kvlab.runs.status import reconcile

_DAY = re.compile(r"\d{4}-\d\d-\d\d")
_MOST_CHARACTERS = 300
#: The words that the style sheet knows.
_CLASSES = ("PASS", "FAIL", "INVALID", "failed", "interrupted")


def row(folder: Path) -> dict[str, Any]:
    """Return what a list of runs shows of one, each value a line of text; ``None`` for what is missing or odd.

    A folder may have been made by anybody: whatever is in it, the others are listed.
    """
    manifest, summary = read_json(folder / MANIFEST), read_json(folder / SUMMARY)
    identity = manifest.get("endpoint_identity")
    identity = identity if isinstance(identity, dict) else {}
    status, verdict = _text(reconcile(folder).get("status")), _text(summary.get("verdict"))
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
        "headline": _text(summary.get("headline")),
        "css": next((word for word in (verdict, status) if word in _CLASSES), ""),
        "plots": sorted(path.name for path in (folder / "plots").glob("*.png")),
    }


def _text(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    found = line(value).strip()
    return found if len(found) <= _MOST_CHARACTERS else f"{found[:_MOST_CHARACTERS]}…"


def write_index(day: Path) -> Path | None:
    """Write the index of ``outputs/YYYY-MM-DD``. Returns its path; ``None``: there is none.

    It is a view of what others have written, so no reason for a run to fail. A folder that is no day's
    (a run that was copied somewhere) has no index: an ``index.html`` there is somebody else's.
    """
    if not _DAY.fullmatch(day.name):
        return None
    rows = [row(path.parent) for path in sorted(day.glob("*/status.json"))]
    path = day / "index.html"
    text = render.environment().get_template("day.html.jinja").render(day=day.name, rows=rows)
    try:
        write_atomic(path, text.encode(errors="replace"))
    except OSError:
        return None
    sweep_stale(day)
    return path
