"""The tables that say what the figures rest on: failures, controls, costs, raw answers."""

from typing import Any

import pandas as pd

from kvlab.compression.transition import sanity
from kvlab.compression.transition.controls import Beside
from kvlab.experiments.kv_budget_transition.analysis import Analysis, AnalysisParams
from kvlab.experiments.kv_budget_transition.cells import table
from kvlab.experiments.kv_budget_transition.throughput import COLUMNS
from kvlab.findings import Table
from kvlab.stats.intervals import Interval

#: What a label means, and what to do about it.
MEANINGS = {
    "EMPTY_OUTPUT": ("no text, or only white space", "compare with budget 1.0: compression, or a refusal"),
    "TRUNCATED": ("cut off at the generation limit", "may still be right: scored as it is; raise the limit if 1.0 has it too"),
    "DEGENERATE_REPETITION": ("the same words again and again", "a sign of a cache that lost too much"),
    "REFUSAL": ("the model declined", "keep apart from compression: does 1.0 refuse the same questions?"),
    "FORMAT_ERROR": ("not of the form that the task asks for", "read some of them: the score may miss a right answer"),
    "INPUT_TRUNCATED": ("the prompt did not fit and was cut", "not a matter of the budget: shorten the contexts"),
    "RATE_LIMITED": ("the server asked to slow down", "lower max_rpm and resume; not a matter of the model"),
    "TIMEOUT": ("no answer in time", "resume; if it stays, the serving is too slow for this length"),
    "ENGINE_ERROR": ("the engine or the connection broke", "mend the serving and resume"),
    "REFUSED_INPUT": ("the server refused the request", "read its message: too long, or a parameter that it does not take"),
    "OUT_OF_MEMORY": ("the engine ran out of memory", "a limit of the machine at this length, not of accuracy"),
    "UNKNOWN_FAILURE": ("none of the above", "read the stored message"),
}  # fmt: skip


def tables(found: Analysis, params: AnalysisParams) -> list[Table]:
    """Return all of them."""
    return [
        _parts(found), _treatments(found), _integrity(found), _throughput(found), _efficiency(found), _controls(found),
        _assertions(found), _sample(found, params), _failure_modes(found),
    ]  # fmt: skip


def _parts(found: Analysis) -> Table:
    rows = [
        [p.budget, p.n, p.drop, p.no_answer, p.broken, p.labelled, p.wrong, p.driven_by] for p in found.parts
    ]
    return table(
        "drop_parts",
        "What the drop is made of",
        ["budget", "n", "drop", "from_no_answer", "from_broken_answers", "from_labelled_wrong_answers", "from_wrong_answers",
         "driven_by"],
        rows,
        "The four parts add up to the drop. An example belongs to the first where one of its two answers is missing, to "
        "the second where one answers nothing (empty, refused, repeating itself, or to a prompt that was cut), to the third "
        "where one was cut off or is of another form: it is an answer, and less right. Else to the fourth. Failures are the "
        "first two, wrong answers the others; driven_by names what makes at least three quarters.",
    )  # fmt: skip


def _treatments(found: Analysis) -> Table:
    names = {
        "zero": "0",
        "missing": "missing",
        "worst": "largest drop",
        "best": "smallest drop",
    }
    focus = "–" if found.focus is None else found.scores.name(found.focus)
    rows = []
    for treatment, call in found.treatments.items():
        at = next((drop for drop in call.drops if drop.budget == found.focus), None)
        shown = [None] * 4 if at is None else [at.n, at.estimate, at.low, at.high]
        rows.append([names[treatment], call.outcome, call.fails_at, *shown])
    return table(
        "failure_treatments",
        "The call under every treatment of failed answers",
        ["failures_count_as", "outcome", "transition_budget", "n", "drop", "drop_low", "drop_high"],
        rows,
        f"The drop is at budget {focus}. largest and smallest drop take every missing answer as right "
        "or wrong, whichever makes the drop so: the truth lies between.",
    )


def _integrity(found: Analysis) -> Table:
    shares = found.integrity
    rows = [
        [str(label), *(map(int, values) if label == "n" else values)]
        for label, values in zip(shares.index, shares.to_numpy().tolist(), strict=True)
    ]
    return table(
        "integrity",
        "Failures by kind (share of the answers asked for)",
        ["label", *(f"{budget:g}" for budget in shares.columns)],
        rows if len(shares.columns) else [],
        "One column a budget; n is the answers asked for, none the share without a label.",
    )


def _throughput(found: Analysis) -> Table:
    rows = [[session[name] for name in COLUMNS] for session in found.frame.attrs.get("sessions", [])]
    return table(
        "throughput",
        "What each session got done",
        list(COLUMNS),
        rows,
        "Over the time from a session's first request to the end of its last: pauses, retries, lost attempts, controls "
        "and timed passes included.",
    )


def _efficiency(found: Analysis) -> Table:
    return table(
        "efficiency",
        "What an answer costs",
        list(found.efficiency.columns),
        found.efficiency.to_numpy(dtype=object).tolist(),
        "Means over answers; times are of the timed pass where there is one, one answer at a time; timed_n is how many, "
        "and a median needs 5. A dash: not measured. of_latency is over the sum of the latencies, without what passes "
        "between answers. The cost needs the two prices in the parameters.",
    )


def _controls(found: Analysis) -> Table:
    noise = found.noise
    rows: list[list[Any]] = []
    if noise.difference.n:
        rows.append(["budget 1.0 once more", 1.0, noise.n, None, None, *_ends(noise.difference)])
    rows += [_beside("random entries kept", item) for item in found.random]
    if found.no_context:
        rows.append(_beside("no context", found.no_context))
    return table(
        "controls",
        "Controls",
        ["control", "budget", "n", "policy_acc", "control_acc", "difference", "low", "high"],
        rows,
        "difference is policy - control on the same examples (first - second time, for budget 1.0 once more, on every "
        "second example), with its interval over contexts. Without the context, the policy's accuracy is that of budget 1.0.",
    )


def _beside(name: str, item: Beside) -> list[Any]:
    return [name, item.budget, item.n, item.policy, item.control, *_ends(item.difference)]


def _ends(interval: Interval) -> list[float | None]:
    return [interval.estimate, interval.low, interval.high]


def _assertions(found: Analysis) -> Table:
    rows = [[item.name, item.asks, item.seen, item.holds] for item in found.assertions]
    return table(
        "assertions",
        "What must hold if the scores mean something",
        ["assertion", "asks", "seen", "holds"],
        rows,
    )


def _sample(found: Analysis, params: AnalysisParams) -> Table:
    picked = sanity.sample(found.frame, seed=params.seed)
    columns = ["budget", "example_id", "bin_idx", "outcome", "f1", "em", "text", "answers"]
    picked = picked.reindex(columns=columns)
    for name in ("text", "answers"):
        picked[name] = picked[name].map(lambda text: None if pd.isna(text) else _short(str(text)))
    return table(
        "raw_sample",
        f"Raw answers to read beside their scores ({sanity.SAMPLE} examples, drawn with the seed)",
        columns,
        picked.to_numpy(dtype=object).tolist(),
        "The same examples at every budget. Texts are cut at 100 characters; the database has all of them.",
    )


def _short(text: str, limit: int = 100) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def _failure_modes(found: Analysis) -> Table:
    labels = found.frame["outcome"].value_counts()
    rows = [[name, int(labels.get(name, 0)), *meaning] for name, meaning in MEANINGS.items()]
    return table(
        "failure_modes",
        "How to read a failure",
        ["label", "in_this_run", "means", "what_to_do"],
        rows,
        "Counted over all phases. A label and a score are independent: a truncated answer may be right.",
    )
