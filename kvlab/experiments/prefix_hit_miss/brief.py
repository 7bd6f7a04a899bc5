"""What prefix hit against miss says first, and what to do next."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvlab.brief import Brief, KeyFigure, with_interval
from kvlab.findings import Verdict
from kvlab.stats import Interval
from kvlab.stats.intervals import units_needed
from kvlab.stats.medians import least_n

if TYPE_CHECKING:
    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams

Config = tuple[int, int]


def brief(
    verdict: Verdict,
    results: Mapping[str, Any],
    differences: Mapping[Config, Interval],
    params: "PrefixHitMissParams",
) -> Brief:
    """Return the sentence, the figure at the largest (A, B), and what a PASS is good for."""
    config = max(differences, key=sum)
    widest = differences[config]
    proven, planned = results["verified_proven"], results["verified_planned"]
    if widest.estimate is None:
        sentence = (
            f"No answer: of {planned} planned trials, {proven} have proven cache states and a complete pair."
        )
        return Brief(
            sentence=sentence, figure=KeyFigure(value=f"{proven} of {planned}", label="trials proven")
        )
    slower = f"{widest.estimate:,.1f} ms"
    if verdict is Verdict.PASS:
        sentence = f"A prefix that is in the cache makes the first token come sooner at every size{_hidden(results)}."
    elif verdict is Verdict.FAIL:
        sentence = "A prefix that is in the cache does not make the first token come sooner: at one size, a hit is slower."
    elif proven < params.min_valid_fraction * planned:
        sentence = f"No answer: only {proven} of {planned} trials have proven cache states."
    else:
        sentence = f"No answer yet: a miss took {slower} longer than a hit, but {widest.n} pairs at each size are too few to be sure."
    return Brief(
        sentence=sentence,
        figure=KeyFigure(
            value=f"{widest.estimate:+,.1f} ms",
            label="to the first token (TTFT) on a miss, against a hit of the same length; median per pair at the largest "
            f"size (A {config[0]:,}, B {config[1]:,} tokens)",
            interval=with_interval(widest, "{:+,.1f} ms"),
        ),
        picture="ttft_by_trial",
        then=[
            "use the figure at the same length: only the cache differs in it",
            "measure the same over HTTP, at your own prompt lengths: `kvlab run token_sweep`",
        ],
    )


def _hidden(results: Mapping[str, Any]) -> str:
    flagged, misses = results["as_written_misses_read_from_cache"], results["as_written_misses"]
    if not flagged:
        return ""
    return (
        f"; measured as usually written, {flagged} of {misses} “misses” were hits, and would have hidden it"
    )


def more_trials(differences: Mapping[Config, Interval], params: "PrefixHitMissParams") -> str:
    """Return how many trials would decide at every (A, B)."""
    least = least_n(1 - (1 - params.confidence) / len(params.configs))
    found = [units_needed(item, 0.0) or 0 for item in differences.values()]
    needed = max([least, *found, params.num_trials + 1])
    return f"set `num_trials` to {needed} (now {params.num_trials}), and run again: an interval needs {least} pairs at each size"
