"""``index.html`` of a day: all its runs, with verdicts and pictures."""

from pathlib import Path
from typing import Any

from kvlab.report import render
from kvlab.runs.files import read_json, write_atomic
from kvlab.runs.folder import MANIFEST, SUMMARY
from kvlab.runs.status import reconcile


def row(folder: Path) -> dict[str, Any]:
    """Return what a list of runs shows of one: missing values are ``None``."""
    manifest, summary = read_json(folder / MANIFEST), read_json(folder / SUMMARY)
    identity = manifest.get("endpoint_identity", {})
    return {
        "name": folder.name,
        "folder": folder,
        "experiment": manifest.get("experiment"),
        "profile": manifest.get("profile"),
        "model": identity.get("model"),
        "server": " ".join(filter(None, (identity.get("kind"), identity.get("version")))) or None,
        "status": reconcile(folder).get("status"),
        "verdict": summary.get("verdict"),
        "headline": summary.get("headline"),
        "plots": sorted(path.name for path in (folder / "plots").glob("*.png")),
    }


def write_index(day: Path) -> Path:
    """Write the index of ``outputs/YYYY-MM-DD``. Returns its path."""
    rows = [row(path.parent) for path in sorted(day.glob("*/status.json"))]
    path = day / "index.html"
    write_atomic(path, render.environment().get_template("day.html.jinja").render(day=day.name, rows=rows))
    return path
