"""What a comparison leaves behind: compare.json for programs, one page for people, tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kvlab.comparison import page, pictures
from kvlab.comparison.comparison import Comparison
from kvlab.escape import file_name
from kvlab.report import render
from kvlab.report.figures import png
from kvlab.runs.files import write_atomic, write_json
from kvlab.store import requests_csv

JSON = "compare.json"
PAGE = "compare.html"


def folder_for(outputs: Path, comparisons: Sequence[Comparison]) -> Path:
    """Return where a comparison goes unless told: the same for the same sides, so that it is written anew."""
    head = comparisons[0]
    names = [head.first.name, *(found.second.name for found in comparisons)]
    return outputs / "comparisons" / file_name("__".join(_short(name) for name in names), 160)


def _short(name: str) -> str:
    parts = [part for part in Path(name).parts if part not in ("/", "..", ".")]
    return "_".join(parts[-2:])


def write(comparisons: Sequence[Comparison], folder: Path) -> None:
    """Write all of it. The databases are the only source: the same ones give the same bytes.

    ``compare.json`` holds one object; of more than two sides, a list of them in the order of the sides.
    """
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    content: Any = [found.as_json() for found in comparisons]
    write_json(folder / JSON, content[0] if len(content) == 1 else content)
    pictures_made = {
        page.name(number): png(pictures.draw(found))
        for number, found in enumerate(comparisons)
        if found.primary is not None
    }
    for name, data in pictures_made.items():
        write_atomic(folder / "plots" / f"{name}.png", data)
    write_atomic(folder / "metrics.csv", requests_csv.text(_metrics(comparisons)))
    write_atomic(folder / "differences.csv", requests_csv.text(_differences(comparisons)))
    text = page.markdown(comparisons, folder)
    write_atomic(folder / "compare.md", text)
    title = page.title(comparisons[0])
    write_atomic(folder / PAGE, render.of_markdown(title, text, pictures_made))


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV."""
    write_atomic(path, requests_csv.text(pd.DataFrame(list(rows))))


def _metrics(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    rows = []
    for found in comparisons:
        results = [] if found.primary is None else [found.primary, *found.others]
        for item in results:
            rows.append({
                "first": found.first.title, "second": found.second.title, "metric": item.metric, "verdict": item.outcome,
                "primary": item is found.primary, "ratio": item.effect.ratio, "low": item.low, "high": item.high,
                "confidence": item.confidence, "n": item.effect.n, "unit": item.effect.unit,
                "method": item.effect.method, "reason": item.reason,
            })  # fmt: skip
    columns = [
        "first", "second", "metric", "verdict", "primary", "ratio", "low", "high", "confidence", "n", "unit", "method",
        "reason",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _differences(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    rows = [
        {"sides": page.title(found), "kind": d.kind, "field": d.field, "first": d.first, "second": d.second}
        for found in comparisons
        for d in found.differences
    ]
    return pd.DataFrame(rows, columns=["sides", "kind", "field", "first", "second"])
