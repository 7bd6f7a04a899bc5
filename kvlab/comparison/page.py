"""A comparison as one page: the verdict, the figure, then every metric and what differs."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from kvlab import escape as escapes
from kvlab.comparison import pictures
from kvlab.comparison.comparison import Comparison, MetricResult, ends
from kvlab.report import render

MOST_PAIRS = 10
_REFUSED = "NOT COMPARABLE"


def title(found: Comparison) -> str:
    """Return what a comparison is called."""
    return f"{found.second.title} against {found.first.title}"


def markdown(comparisons: Sequence[Comparison], folder: Path) -> str:
    """Return ``compare.md``; links to the runs are relative to ``folder``."""
    import jinja2

    env = render.environment().overlay(loader=jinja2.PackageLoader("kvlab.comparison"))
    head = comparisons[0]
    figures = [
        {"name": name(number), "title": title(found), "caption": pictures.caption(found)}
        for number, found in enumerate(comparisons)
        if found.primary is not None
    ]
    several = len(comparisons) > 1
    return env.get_template("compare.md.jinja").render(
        title=f"{len(comparisons)} sides against {head.first.title}" if several else title(head),
        verdict=", ".join(word(found) for found in comparisons),
        headline="; ".join(found.headline for found in comparisons),
        figures=figures,
        comparisons=[_content(found, folder) for found in comparisons],
        sides="; ".join(_side(side) for side in (head.first, *(item.second for item in comparisons))),
    )


def word(found: Comparison) -> str:
    """Return the verdict as it is shown."""
    return _REFUSED if found.verdict is None else found.verdict.upper()


def name(number: int) -> str:
    """Return the name of a comparison's figure."""
    return "compare" if number == 0 else f"compare_{number + 1}"


def _side(side: Any) -> str:  # noqa: ANN401 - a Side
    level = "starts" if side.starts_known else "runs (starts unknown)"
    return f"{side.title}: {', '.join(run.name for run in side.runs)}; {side.starts} {level}"


def _content(found: Comparison, folder: Path) -> dict[str, Any]:
    results = [] if found.primary is None else [found.primary, *found.others]
    return {
        "title": title(found),
        "verdict": word(found),
        "headline": found.headline,
        "refused": [str(item) for item in found.refused],
        "metrics": [_row(item) for item in results],
        "alarms": _alarms(found),
        "pairs": _disagreeing(found),
        "evidence": _links(found, folder),
        "differences": [(d.kind, d.field, _text(d.first), _text(d.second)) for d in found.differences],
        "weakened": found.weakened,
    }


def _row(item: MetricResult) -> tuple[Any, ...]:
    low, high, ratio = item.low, item.high, item.effect.ratio
    shown_ends = ends(low, high)
    interval = f"{shown_ends} ({item.confidence:.1%})" if shown_ends else item.reason
    kind = pictures.unit(item.metric)
    times = [None if value is None else f"{value:,.3g} {kind}" for value in (item.first, item.second)]
    shown = None if ratio is None else f"{ratio:.3f}"
    return (
        item.metric,
        item.outcome,
        shown,
        interval,
        *times,
        f"{item.effect.n} {item.effect.unit}",
        item.effect.method,
    )


def _alarms(found: Comparison) -> str:
    return "not asked" if found.alarms is None else f"false alarms: {found.alarms.words}"


def _disagreeing(found: Comparison) -> list[tuple[Any, ...]]:
    """Return the pairs that lie farthest from the ratio of all."""
    if found.primary is None or found.pairs.empty or found.primary.effect.log_ratio is None:
        return []
    off = found.pairs["log_second"] - found.pairs["log_first"]
    far = (off - found.primary.effect.log_ratio).abs().sort_values(ascending=False).index[:MOST_PAIRS]
    arm = found.named.metric.rpartition(".")[0]
    states = [_states(side.requests, arm) for side in (found.first, found.second)]
    rows = []
    for index in far:
        row = found.pairs.loc[index]
        times = [f"{np.exp(float(row[f'log_{side}'])):,.1f}" for side in ("first", "second")]
        key = (int(row["run"]), str(row["trial_id"]))
        rows.append(
            (row["trial_id"], f"{np.exp(off[index]):.3f}", *times, *(state.get(key) for state in states))
        )
    return rows


def _states(requests: pd.DataFrame, arm: str) -> dict[tuple[int, str], str]:
    from kvlab.comparison.values import stem

    used = requests[requests["used"] & (requests["status"] == "ok")]
    used = used[[stem(value) == arm for value in used["arm"]]]
    columns = (used[name] for name in ("run", "trial_id", "cache_state", "cached_tokens", "prompt_tokens"))
    return {
        (int(run), str(trial)): f"{state}, {_number(cached)} of {_number(prompt)}"
        for run, trial, state, cached, prompt in zip(*columns, strict=True)
    }


def _number(value: Any) -> str:  # noqa: ANN401 - a cell, which may be missing
    return "?" if value is pd.NA or value != value else f"{float(value):.0f}"


def _links(found: Comparison, folder: Path) -> str:
    """Return links to where every request of the two sides is listed."""
    shown = []
    for side in (found.first, found.second):
        for run in side.runs:
            path = Path(os.path.relpath(run.folder, folder)).as_posix()
            shown.append(f"[{escapes.markdown_alt(run.name)}]({quote(path)}/requests.csv)")
    return "Every request with its evidence: " + ", ".join(shown) + "."


def _text(value: Any, limit: int = 200) -> str | None:  # noqa: ANN401 - JSON
    if value is None:
        return None
    text = str(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def badge(found: Comparison) -> str:
    """Return what a notebook shows of a comparison."""
    colours = {"faster": "#006d4f", "equivalent": "#006d4f", "slower": "#b3261e", "undecided": "#5f6368"}
    colour = colours.get(found.verdict or "", "#8a0f3c")
    lines = "".join(f"<li>{escape(line)}</li>" for line in found.weakened)
    return (
        f'<div><p><span style="background:{colour};color:white;padding:2px 10px;border-radius:10px;font-weight:bold">'
        f"{word(found)}</span></p><p><b>{escape(found.headline)}</b></p><p>{escape(_alarms(found))}</p><ul>{lines}</ul></div>"
    )
