"""What a KV-budget transition says first, and what to do with a sound measurement."""

from collections.abc import Sequence

from kvlab import findings
from kvlab.brief import Brief, KeyFigure, in_the_way
from kvlab.compression.transition.bins import curve
from kvlab.compression.transition.drop import Drop
from kvlab.compression.transition.scores import FULL
from kvlab.experiments.kv_budget_transition.estimate import Analysis
from kvlab.experiments.kv_budget_transition.params import ANSWERED
from kvlab.findings import Check

_NOT_YET = "Nothing to rely on yet"
#: What a check in the way means.
_WORDS = {
    "n_kept_as_planned": "the cache did not keep what each budget asks for, or nobody saw what it kept",
    "budget_1_repeats": "the same prompt with the whole cache gave other answers the second time",
    "all_planned_answered": "not every planned answer is there",
    "not_of_failures_alone": "a loss shows only where missing answers count as wrong, so it may be the failures' own",
}
RESUME = "go on with this run until every planned answer is there: `kvlab run kv_budget_transition --resume` with this folder"
FAILURES = (
    "look into the table of failure modes for what went missing, correct that, and go on with `--resume`"
)
REPEATS = "run the engine in float32 on one thread, or an engine that promises the same tokens, and ask again"
KEPT = (
    "measure with an engine that says how many KV entries it kept (in this process: `engine.name: transformers_kv`); a budget that is "
    "sent to a server, and not seen, is none"
)


def brief(found: Analysis, checks: Sequence[Check]) -> Brief:
    """Return the sentence and the figure."""
    blocking = findings.in_the_way(checks)[1]
    drop, call, name = found.called_drop, found.call, found.scores.name
    if drop is None or drop.estimate is None or call.outcome == "not tested":
        answers = len(found.frame)
        return Brief(
            sentence="No answer: nothing was answered both with the full KV cache and with a smaller one.",
            figure=KeyFigure(value=f"{answers:,}", label="answers"),
        )
    at = name(drop.budget)
    smallest = name(call.drops[-1].budget)
    means = curve(found.scores)
    sentence, then = {
        "transition": (
            f"Keeping only {at} of the KV cache breaks the answers: accuracy falls from {means[FULL]:.2f} to "
            f"{means[drop.budget]:.2f}",
            [_safe(found), "narrow the place of the fall down with more budgets and tasks: the profile `dense`"],
        ),
        "no transition": (
            f"Keeping only {smallest} of the KV cache costs less than {found.asked.margin:g} of the accuracy",
            [f"budgets down to {smallest} are safe for this task", "look further down: smaller `kv.budgets`, or longer contexts"],
        ),
        "not monotone": (
            "Accuracy falls at some budgets and comes back at smaller ones, so no budget parts good from bad",
            ["look at each example (“Each example at each budget”), and ask more of them: `dataset.n_per_bin`"],
        ),
        "failures": ("A loss shows only where missing answers count as wrong, so it may be the failures' own", [FAILURES]),
    }.get(call.outcome, _open(found))  # fmt: skip
    return Brief(
        sentence=f"{sentence}."
        if not blocking
        else in_the_way(blocking, _WORDS, unknown=_NOT_YET, broken=_NOT_YET),
        figure=_figure(found, drop, at, sure=not blocking),
        picture="accuracy_over_budget",
        then=then,
    )


def _safe(found: Analysis) -> str:
    """Return which budgets are shown to be safe, which is another thing than where the fall was seen."""
    holds, margin = found.call.holds_at, found.asked.margin
    if holds is not None and holds < FULL:
        return f"budgets down to {found.scores.name(holds)} are shown to cost less than {margin:g}: test that on your own data"
    contexts = len(set(found.scores.clusters.tolist()))
    return (
        f"keep the whole cache for this task: no smaller budget, above the one of the headline either, is shown to cost less than "
        f"{margin:g} (to learn more than {contexts} contexts show, raise `dataset.n_per_bin`)"
    )


def _open(found: Analysis) -> tuple[str, list[str]]:
    least, contexts = found.detectable.drop, len(set(found.scores.clusters.tolist()))
    able = "" if least is None else f"; the smallest loss that {contexts} contexts would show is {least:.2f}"
    return (
        f"Not decided: neither a loss of accuracy nor its absence is shown{able}",
        [
            f"ask about more contexts: raise `dataset.n_per_bin` (there are {contexts} in all; four times as many halve the interval)"
        ],
    )


def _figure(found: Analysis, drop: Drop, at: str, *, sure: bool) -> KeyFigure:
    what = "answers" if found.asked.metric == ANSWERED else f"accuracy (mean {found.asked.metric})"
    interval = f"no interval: {drop.reason}"
    if drop.low is not None and drop.high is not None:
        interval = (
            f"{_signed(-drop.high)} to {_signed(-drop.low)} ({found.asked.confidence:.0%}; {drop.method}, n = {drop.n} examples in "
            f"{drop.clusters} contexts)"
        )
    change = 0.0 if drop.estimate is None else -drop.estimate
    return KeyFigure(
        value=_signed(change),
        label=f"{what} at budget {at}, against the full cache{'' if sure else '; not to be relied on yet'}",
        interval=interval,
    )


def _signed(change: float) -> str:
    return f"{change:+.3f}".replace("-", "−")
