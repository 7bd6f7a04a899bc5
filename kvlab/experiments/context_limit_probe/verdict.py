"""The verdict by the four criteria, and everything that the report says."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.experiments.context_limit_probe import analysis, checks, replayed, up_front
from kvlab.experiments.context_limit_probe.aim import next_aim
from kvlab.experiments.context_limit_probe.analysis import Findings
from kvlab.experiments.context_limit_probe.explained import ratio_in_words
from kvlab.experiments.context_limit_probe.growth import Line
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT
from kvlab.experiments.context_limit_probe.outcomes import WORDS, Outcome
from kvlab.experiments.context_limit_probe.tables import tables
from kvlab.findings import Figure, Summary

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams

FIGURES = [
    Figure(
        name="limits",
        title="Every size that was tried, and the limits",
        caption="A dot: held; a cross: not. The shaded range is what MAX_CONTEXT_TOKENS allows.",
    ),
    Figure(
        name="memory_per_token",
        title="Memory against context, in the child process",
        caption="What the child holds above the loaded model; dashed: the theory, from config.json; cross: where the cap ended it.",
    ),
    Figure(
        name="latency",
        title="TTFT and decode speed against context",
        caption="Coloured by what the context was: growing (part of it in the cache), warm (all but the question), cold.",
    ),
    Figure(
        name="replay",
        title="The replayed conversation, turn by turn",
        caption="Each peak is a trim: what follows the system message is computed anew.",
    ),
    Figure(
        name="memory_over_time",
        title="Memory over time",
        caption="Shaded: trials. A server that allocated its cache when it started hardly moves, whatever is asked of it.",
    ),
]


def summarize(
    frame: pd.DataFrame, params: "ContextLimitProbeParams", profile: str, identity: Identity | None
) -> Summary:
    """Judge a run."""
    found = analysis.findings(analysis.read_probes(frame), params)
    table = replayed.replays(frame, found, params)
    criteria = checks.checks(found, table, params, identity)
    verdict, reasons = checks.verdict(criteria, with_children=found.children_tried)
    return Summary(
        experiment="context_limit_probe",
        profile=profile,
        verdict=verdict,
        headline=_headline(found, table),
        reasons=reasons,
        checks=criteria,
        results=_results(frame, found, table, params),
        tables=tables(frame, found, table, params),
        figures=FIGURES,
        limitations=_limitations(found, table, params, identity, analysis.read_memory(frame)),
    )


def _headline(found: Findings, table: pd.DataFrame) -> str:
    if found.endpoint.held is None:
        return "no context was accepted"
    parts = [f"{found.endpoint.low:,} tokens are accepted"]
    if (failed := found.endpoint.failed) is not None:
        about = "about " if "characters" in failed.detail else ""
        parts[0] += f", {about}{failed.tokens:,} not ({WORDS[failed.outcome or Outcome.RUN_ENDED]})"
    if found.quality.failed is not None and found.quality.held is not None:
        parts.append(f"what stands at the start is answered up to {found.quality.low:,}")
    for dtype, (_, line) in found.children.items():
        if line is not None:
            parts.append(f"{line.slope:,.0f} bytes a token in {dtype}")
    parts += [f"{item.name}={item.value}" for item in found.constants]
    if (cost := replayed.cost_in_words(table)) is not None:
        parts.append(cost)
    return "; ".join(parts)


def _results(
    frame: pd.DataFrame, found: Findings, table: pd.DataFrame, params: "ContextLimitProbeParams"
) -> dict[str, Any]:
    failed = found.endpoint.failed
    best = replayed.best_interval(table)
    return {
        "largest_accepted_tokens": found.endpoint.held.tokens if found.endpoint.held else None,
        "smallest_failed_tokens": failed.tokens if failed else None,
        "apart_tokens": found.width,
        "limit_reason": str(failed.outcome) if failed else None,
        "limit_message": _message(found),
        "server_capacity": found.detail(ENDPOINT, "capacity"),
        "quality_held_tokens": found.quality.held.tokens if found.quality.held else None,
        "quality_lost_tokens": found.quality.failed.tokens if found.quality.failed else None,
        "maximum_tokens": found.maximum,
        "maximum_because": found.because,
        "tokens_per_exchange": None
        if found.growth_per_exchange is None
        else round(found.growth_per_exchange, 1),
        "bytes_per_token": {dtype: _line(found, dtype, params) for dtype in found.children},
        "constants": {item.name: item.value for item in found.constants},
        "rules": {item.name: item.rule for item in found.constants},
        "replay_turns": int(table["turns"].sum()) if len(table) else 0,
        "replay_failures": int(table["failed"].sum()) if len(table) else None,
        "cheapest_interval": None if best is None else int(best["interval"]),
        "failed_requests": int((frame["status"] == "failed").sum()),
        "interval_confidence": params.confidence,
    }


def _message(found: Findings) -> str | None:
    """Return what the server says at its limit: of several refusals, one that states a maximum."""
    refused = [
        probe.detail for probe in found.probes if probe.target == ENDPOINT and probe.detail.get("message")
    ]
    refused.sort(key=lambda detail: detail.get("stated") is None)
    return str(refused[0]["message"]) if refused else None


def _line(found: Findings, dtype: str, params: "ContextLimitProbeParams") -> dict[str, Any]:
    limits, line = found.children[dtype]
    theory = found.theory_bytes(dtype)
    shared = {
        "largest_held_tokens": limits.low or None,
        "smallest_failed_tokens": limits.failed.tokens if limits.failed else None,
        "failed_because": str(limits.failed.outcome) if limits.failed else None,
        "theory": theory,
        "layout": found.detail(dtype, "layout"),
        "explained": ratio_in_words(found, dtype, params.fit_from_tokens),
    }
    return {**shared, **(_figures(line, theory) if line else {"reason": "too few points to fit"})}


def _figures(line: Line, theory: int | None) -> dict[str, Any]:
    return {
        "estimate": round(line.slope, 1),
        "low": round(line.low, 1),
        "high": round(line.high, 1),
        "ratio_to_theory": round(line.slope / theory, 4) if theory else None,
        "r_squared": round(line.r_squared, 6),
        "max_residual_bytes": round(line.max_residual_bytes),
        "points": line.points,
        "model_bytes": round(line.intercept),
    }


def _limitations(
    found: Findings,
    table: pd.DataFrame,
    params: "ContextLimitProbeParams",
    identity: Identity | None,
    memory: analysis.Memory | None,
) -> list[str]:
    lines = up_front.lines(found, memory)
    aim = next_aim([probe for probe in found.probes if probe.target == ENDPOINT], params, identity)
    if aim.left_out_tokens is not None:
        lines.append(f"No limit was found: {aim.left_out_tokens:,} tokens were not tried, because {aim.why}.")
    if len(table) and replayed.best_interval(table) is None and not table["failed"].any():
        cycles = min(int(mean.n) for mean in table["mean_ttft_ms"])
        lines.append(
            "Which interval costs least is not said: their mean TTFTs are not apart, or too few whole cycles were replayed "
            f"for an interval (the fewest: {cycles}). A longer replay (replay_exchanges) has more."
        )
    unloaded = [each for each in found.probes if each.outcome is Outcome.COULD_NOT_LOAD]
    lines += [f"No child process in {each.target}: {each.detail.get('message')}." for each in unloaded]
    if found.children and not found.children_tried:
        lines.append(
            "No bytes a token: no child process loaded the model. It needs Linux, and weights: where the endpoint's are "
            "elsewhere, in_process_model names them."
        )
    if params.needles and found.quality.held is None:
        lines.append(
            "The facts at the start were answered at no length: what quality the context costs is unknown."
        )
    if found.quality.held is not None:
        lines.append(
            f"Quality is {params.needles} facts at the start, asked one by one and greedily: a limit of this prompt "
            "and this model, coarse by its number of questions."
        )
    lines += [
        "One request at a time: with many at once, each has its own context in the same cache.",
        "The replayed answers are scripted, so a turn also computes the answer before it; a server that has generated "
        "it may have it in the cache.",
        "What fits on other cards is extrapolated from the line: activations, fragmentation and the engine's own "
        "memory are not in it.",
    ]
    for key, fact in (identity.facts if identity else {}).items():
        if fact.holds is not True:
            lines.append(f"Not proven of this endpoint: {key} ({fact.why}).")
    return lines
