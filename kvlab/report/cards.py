"""What a notebook shows of an object: a label in colour, and a line of words."""

from collections.abc import Sequence

from kvlab.escape import html
from kvlab.findings import Check

#: White on each is readable (a contrast of 4.5 at least); cold and hit are those of the figures, darker.
_COLOURS = {"cold": "#005a8c", "hit": "#a84300", "partial": "#7a5c00", "yes": "#006d4f", "no": "#b3261e"}
_GREY = "#5f6368"


def label(word: str) -> str:
    """Return a word on its colour; grey where it has none."""
    return (
        f'<span style="background-color:{_COLOURS.get(word, _GREY)};color:white;padding:2px 10px;'
        f'border-radius:10px;font-weight:bold">{html(word)}</span>'
    )


def answer(state: str, ttft: str, why: str, text: str) -> str:
    """Return an answer: its state, its time, the evidence and the text."""
    return (
        f"<div><p>{label(state)} first token: {html(ttft)} · {html(why)}</p>"
        f"<p>{html(text) if text else '(no text)'}</p></div>"
    )


def check(found: Check) -> str:
    """Return one check of a verdict."""
    word = {True: "yes", False: "no", None: "unknown"}[found.passed]
    advice = f"<p>{html(found.advice)}</p>" if found.advice and found.passed is not True else ""
    return (
        f"<div><p>{label(word)} <b>{html(found.name)}</b> ({found.role}): {html(found.asks)}</p>"
        f"<p>Seen: {html(found.seen)}</p>{advice}</div>"
    )


def lines(title: str, found: Sequence[tuple[str, str]]) -> str:
    """Return a title and a small table of a name and HTML each."""
    rows = "".join(
        f'<tr><td style="text-align:left"><b>{html(name)}</b></td><td style="text-align:left">{value}</td></tr>'
        for name, value in found
    )
    return f"<div><p><b>{html(title)}</b></p><table><tbody>{rows}</tbody></table></div>"
