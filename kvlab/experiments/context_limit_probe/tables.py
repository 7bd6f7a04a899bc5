"""The tables of the report."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.experiments.context_limit_probe import analysis
from kvlab.experiments.context_limit_probe.analysis import Findings
from kvlab.experiments.context_limit_probe.explained import ratio_in_words
from kvlab.experiments.context_limit_probe.ledger import ENDPOINT, QUALITY, Probe
from kvlab.experiments.context_limit_probe.outcomes import WORDS
from kvlab.findings import Table

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams

GIB, MIB = 2**30, 2**20


def tables(
    frame: pd.DataFrame, found: Findings, replays: pd.DataFrame, params: "ContextLimitProbeParams"
) -> list[Table]:
    """Return all tables."""
    return [
        recommended(found),
        probes(found),
        quality(found),
        bytes_per_token(found, params),
        cards(found, params),
        trims(replays),
        latency(frame),
        memory(frame),
    ]


def recommended(found: Findings) -> Table:
    """Return the constants with their rules."""
    return Table(
        name="constants",
        title="The constants, and the rule that each came from",
        columns=["constant", "value", "rule"],
        rows=[[item.name, item.value, item.rule] for item in found.constants],
        note="Also in recommended.env and recommended.py, to be pasted.",
    )


def probes(found: Findings) -> Table:
    """Return every size that the endpoint was asked for."""
    return Table(
        name="probes",
        title="Every size that was tried on the endpoint",
        columns=["trial", "tokens", "chosen by", "outcome", "the server says"],
        rows=[
            [probe.trial_id, probe.tokens, probe.chosen_by, _words(probe), probe.detail.get("message")]
            for probe in found.probes
            if probe.target == ENDPOINT
        ],
    )


def quality(found: Findings) -> Table:
    """Return how many of the facts at the start were answered."""
    rows = [
        [probe.tokens, probe.detail["exchanges"], probe.detail["right"], probe.detail["asked"], probe.held]
        for probe in sorted(found.probes, key=lambda probe: probe.tokens)
        if probe.target == QUALITY
    ]
    columns = ["tokens", "exchanges", "right", "asked", "holds"]
    return Table(
        name="quality",
        title="Facts at the start of the context: how many are answered",
        columns=columns,
        rows=rows,
    )


def bytes_per_token(found: Findings, params: "ContextLimitProbeParams") -> Table:
    """Return the fitted lines beside the theory."""
    rows: list[list[Any]] = []
    for dtype, (limits, line) in found.children.items():
        theory = found.theory_bytes(dtype)
        failed = None if limits.failed is None else f"{_words(limits.failed)} at {limits.failed.tokens:,}"
        if line is None:
            rows.append([dtype, None, None, None, theory, None, None, None, limits.low or None, failed])
            continue
        ratio = round(line.slope / theory, 4) if theory else None
        rows.append(
            [dtype, round(line.slope), round(line.low), round(line.high), theory, ratio, round(line.r_squared, 5),
             line.points, limits.low, failed]
        )  # fmt: skip
    words = [
        text for dtype in found.children if (text := ratio_in_words(found, dtype, params.fit_from_tokens))
    ]
    return Table(
        name="bytes_per_token",
        title="Memory a token, measured in a child process",
        columns=[
            "dtype",
            "bytes/token",
            "low",
            "high",
            "theory",
            "ratio",
            "R²",
            "points",
            "held tokens",
            "ended by",
        ],
        rows=rows,
        note=(
            f"{found.held_in_words} after each chunk, once activations are freed; theory: 2 · layers · kv_heads · "
            "head_dim · bytes, over the layers that grow. " + " ".join(words)
        ),
    )


def cards(found: Findings, params: "ContextLimitProbeParams") -> Table:
    """Return what fits into how much free memory, extrapolated."""
    lines = {dtype: line for dtype, (_, line) in found.children.items() if line is not None}
    rows: list[list[Any]] = [
        [f"{free:g}", *(line.tokens_in(free * GIB) for line in lines.values())]
        for free in params.cards_free_gib
    ]
    return Table(
        name="cards",
        title="EXTRAPOLATED: context that fits into so much free memory",
        columns=["free GiB beside the model", *(f"tokens, {dtype}" for dtype in lines)],
        rows=rows if lines else [],
        note=(
            "Free memory over bytes a token: an upper bound, from a line that was measured up to "
            f"{max((line.last_tokens for line in lines.values()), default=0):,} tokens only. It is the sum over all "
            "contexts that are held at once, and says nothing of the model's own limit. A dash: all windows are full, "
            "and nothing grows."
        ),
    )


def trims(replays: pd.DataFrame) -> Table:
    """Return what each interval costs."""
    rows = []
    for row in replays.to_dict("records"):
        ttft = row["trim_ttft_ms"]
        rows.append(
            [row["interval"], row["turns"], row["failed"], row["trims"], row["largest_tokens"],
             _round(row["turn_ttft_ms"]), _round(ttft.estimate), _round(ttft.low), _round(ttft.high),
             _round(row["trim_cached_tokens"]), _round(row["trim_computed_tokens"]), row["states"],
             *(_round(getattr(row["mean_ttft_ms"], name)) for name in ("estimate", "low", "high"))]
        )  # fmt: skip
    return Table(
        name="trims",
        title="The trimming check: what each interval costs",
        columns=[
            "interval", "turns", "failed", "trims", "largest prompt", "turn TTFT ms", "trim TTFT ms", "low", "high",
            "cached at a trim", "computed at a trim", "cache states of trims", "mean TTFT ms", "mean low", "mean high",
        ],
        rows=rows,
        note=(
            "interval: exchanges from trim to trim, all with the same KEEP_MESSAGES. A trim moves what it keeps, so the "
            "cache knows only the system message before it. Mean TTFT: over whole cycles, each a trim and the turns up "
            "to the next, with an interval over cycles where there are seven or more. That is what an interval costs."
        ),
    )  # fmt: skip


def latency(frame: pd.DataFrame) -> Table:
    """Return TTFT and decode speed against context."""
    table = analysis.latencies(frame)
    rows = []
    for _, part in table.groupby(["kind", "prompt_tokens"], sort=True):
        kind, tokens = part["kind"].iloc[0], part["prompt_tokens"].iloc[0]
        tpot = part["tpot_ms"].dropna().astype(float)
        speed = 1e3 / tpot.median() if len(tpot) and tpot.median() > 0 else None
        rows.append(
            [kind, int(tokens), _round(part["cached_tokens"].median()), _round(part["ttft_ms"].astype(float).median()),
             _round(speed), len(part)]
        )  # fmt: skip
    return Table(
        name="latency",
        title="TTFT and decode speed against context",
        columns=["context", "tokens", "cached", "TTFT ms", "tokens/s", "requests"],
        rows=rows,
        note="Medians. tokens/s: of the tokens after the first.",
    )


def memory(frame: pd.DataFrame) -> Table:
    """Return baseline, peak and delta of each trial that took longer than a moment."""
    found = analysis.read_memory(frame)
    columns = ["trial", "memory", "baseline MiB", "peak MiB", "delta MiB", "samples"]
    if found is None:
        return Table(name="memory", title="Memory by trial", columns=columns, rows=[])
    rows = [
        [row["name"], row["series"], *(_round(row[f"{name}_bytes"] / MIB) for name in ("baseline", "peak", "delta")),
         row["samples"]]
        for row in found.windows.to_dict("records")
        if row["samples"] > 3
    ]  # fmt: skip
    cost = [
        f"{row['reads']} looks of {row['mean_ms']:.2f} ms on average, {row['busy_fraction']:.2%} of the time"
        for row in found.monitors.to_dict("records")
        if row["mean_ms"] == row["mean_ms"] and row["mean_ms"] is not None
    ]
    note = f"Looking cost: {'; '.join(cost)}." if cost else "Memory was not looked at."
    unseen = found.why_not()
    note += f" Not seen: {unseen}." if unseen != "nothing was sampled" else ""
    return Table(name="memory", title="Memory by trial", columns=columns, rows=rows, note=note)


def _words(probe: Probe) -> str:
    return "being tried" if probe.outcome is None else WORDS[probe.outcome]


def _round(value: Any) -> float | None:  # noqa: ANN401 - a cell
    return None if value is None or pd.isna(value) else round(float(value), 1)
