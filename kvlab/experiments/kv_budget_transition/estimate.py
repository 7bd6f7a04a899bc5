"""From the answers of a run to everything that its report says of them, computed once."""

import json
import math
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pandas as pd

from kvlab.compression.transition import bins, controls, efficiency, failures, flips, sanity
from kvlab.compression.transition.detect import BinCall, TransitionCall, call, call_bins, drops_of
from kvlab.compression.transition.drop import Drop
from kvlab.compression.transition.location import Location, locate
from kvlab.compression.transition.point_rule import PointTransition, point_rule
from kvlab.compression.transition.power import Detectable, minimum_detectable
from kvlab.compression.transition.scores import CURVE, FULL, Scores, Treatment, collect
from kvlab.experiments.kv_budget_transition import store
from kvlab.experiments.kv_budget_transition.params import ANSWERED, KVBudgetTransitionParams, metric_of
from kvlab.runs.data import RunData

_QUERY = """
SELECT r.request_id, r.run_id, r.trial_id, r.arm, r.attempt, r.phase, r.example_id,
       json_extract(x.meta_json, '$.context_id') AS context_id,
       json_extract(x.meta_json, '$.task') AS task,
       json_extract(x.meta_json, '$.metric') AS metric,
       x.answers_json AS answers, e.bin_idx, e.token_len, e.ordinal,
       u.kv_policy AS policy, u.kv_budget AS budget, k.n_context, k.n_planned, k.n_kept_json, k.cache_bytes,
       k.peak_memory_bytes, k.memory_reason, k.evidence, p.text
FROM requests r
JOIN runs u USING (run_id)
JOIN examples x USING (example_id)
JOIN manifest_entries e USING (example_id)
LEFT JOIN kv_budgets k USING (request_id)
LEFT JOIN responses p USING (request_id)
WHERE r.measured = 1
ORDER BY e.ordinal, r.phase, u.kv_policy, u.kv_budget DESC, r.arm, r.attempt
"""

#: What is taken from the requests, as every experiment has them, and what it is called here.
_OF_REQUESTS = {
    "finish_reason": "finish_reason", "prompt_tokens": "prompt_tokens", "completion_tokens": "completion_tokens",
    "completion_token_ids": "token_ids", "error_type": "error_type", "error_message": "error_message",
    "status": "failed", "ttft_ms": "ttft_ms", "latency_ms": "latency_ms", "sent_ns": "sent_ns", "done_ns": "done_ns",
    "session_id": "session_id",
}  # fmt: skip
_SCORES = ("em", "f1", "contains", "outcome", "scorer")
#: The columns of `Answers.frame`, in the order of ``answers.csv``; below: how it is read.
_COLUMNS = (
    "request_id", "run_id", "trial_id", "arm", "attempt", "phase", "example_id", "context_id", "task", "metric",
    "answers", "bin_idx", "token_len", "ordinal", "policy", "budget", "n_context", "n_planned", "n_kept_json",
    "cache_bytes", "peak_memory_bytes", "memory_reason", "evidence", "text", "finish_reason", "prompt_tokens",
    "completion_tokens", "token_ids", "error_type", "error_message", "failed", *_SCORES, "ttft_ms", "latency_ms",
    "sent_ns", "done_ns", "session_id",
)  # fmt: skip
_NUMBERS = (
    "budget", "n_context", "n_planned", "cache_bytes", "peak_memory_bytes", "prompt_tokens", "completion_tokens",
    "em", "f1", "contains", "ttft_ms", "latency_ms",
)  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """What was asked, what the cache held, what came back, what it scored.

    Attributes:
        frame: One row for each answer. One out of a shared prefill has no latency of its own, as it has
            no TTFT. ``asked`` is the budget as the parameters write it; ``budget`` is the same fraction, and
            for a number of entries its share of the mean context, so that budgets have one order (`shares`).
        scored_by: What the dataset's examples are scored by.
        examples: How many there are.
        bins: How many length bins there are; ``None``: no dataset is stored.
        trials: How many are done, and how many there are.
        sessions: What each session got done in its time.
    """

    frame: pd.DataFrame
    scored_by: set[str]
    examples: int
    bins: int | None
    trials: tuple[int, int]
    sessions: list[dict[str, Any]]

    @classmethod
    def of(cls, data: RunData, params: KVBudgetTransitionParams) -> Self:
        """Read the answers of a run: of each example under each arm the last one.

        The requests of a trial in this process count together, so there only the last attempt of a trial
        does; an endpoint's are asked again one by one.
        """
        frame = _read(data)
        if params.in_process:
            frame = frame[frame["attempt"] == frame.groupby("trial_id")["attempt"].transform("max")]
        frame = frame.drop_duplicates(["example_id", "phase", "arm"], keep="last").reset_index(drop=True)
        frame["query_mode"] = params.kv.query_mode
        frame[ANSWERED] = frame["outcome"].isna().astype(float)  # a failure's outcome is its error
        frame["asked"] = frame["budget"]
        frame["budget"] = frame["asked"].map(shares(data.sql, set(frame["asked"].dropna()))).astype(float)
        kept = frame["n_kept_json"].map(lambda text: json.loads(text) if isinstance(text, str) else [])
        frame["n_kept_min"] = kept.map(lambda layers: min(layers, default=math.nan))
        frame["n_kept_max"] = kept.map(lambda layers: max(layers, default=math.nan))
        scored_by = data.sql.execute("SELECT DISTINCT json_extract(meta_json, '$.metric') FROM examples")
        return cls(
            frame=frame,
            scored_by={str(row[0]) for row in scored_by},
            examples=len(data.table("manifest_entries")),
            bins=len(data.table("bins")) or None,
            trials=(data.done, len(data.trials)),
            sessions=sessions(data.requests),
        )


def _read(data: RunData) -> pd.DataFrame:
    """Return every measured request, all attempts: `_COLUMNS`."""
    cursor = data.sql.execute(_QUERY)
    frame = pd.DataFrame([tuple(row) for row in cursor], columns=[column[0] for column in cursor.description])
    requests = data.requests[["request_id", *_OF_REQUESTS]].rename(columns=_OF_REQUESTS)
    frame = frame.merge(requests, on="request_id", how="left")
    frame["failed"] = frame["failed"] == "failed"
    found = store.scores(data)
    for name in _SCORES:
        frame[name] = frame["request_id"].map({key: row[name] for key, row in found.items()})
    frame["outcome"] = frame["error_type"].where(frame["error_type"].notna(), frame["outcome"])
    frame[[*_NUMBERS]] = frame[[*_NUMBERS]].astype(float)
    frame["latency_ms"] = frame["latency_ms"].where(frame["ttft_ms"].notna())
    return frame[[*_COLUMNS]]


def shares(sql: sqlite3.Connection, budgets: Collection[float]) -> dict[float, float]:
    """Return where each budget stands among the others: a number of entries as its share of the mean context.

    It is a share of no context in particular, and is never reported: a number of entries keeps its name.
    """
    mean = sql.execute("SELECT avg(token_len) FROM manifest_entries").fetchone()[0]
    found = {budget: budget for budget in budgets if budget <= 1}
    for number in sorted(set(budgets) - set(found)):
        share = number / mean
        while share in found.values():  # two budgets, though they may be one in the mean
            share -= 1e-6
        found[number] = share
    return found


def sessions(requests: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what each session got done in the time that passed: pauses, retries and lost attempts included.

    Keys: session, requests, answers, elapsed_s, answers_per_min, completion_tokens_per_s; a rate is ``None``
    where no time passed. ``elapsed_s`` runs from the first request sent to the last one ended. Sessions do
    not share a clock, and between them nothing was asked: there is no total.
    """
    found = []
    for number, rows in requests.groupby("session_id", sort=True):
        ended = rows["done_ns"].fillna(rows["sent_ns"]).max()
        elapsed_s = float(ended - rows["sent_ns"].min()) / 1e9
        answers, tokens = int((rows["status"] == "ok").sum()), rows["completion_tokens"].dropna()
        some = elapsed_s > 0
        found.append(
            {
                "session": number,
                "requests": len(rows),
                "answers": answers,
                "elapsed_s": elapsed_s,
                "answers_per_min": answers / elapsed_s * 60 if some else None,
                "completion_tokens_per_s": float(tokens.sum()) / elapsed_s if some and len(tokens) else None,
            }
        )
    return found


@dataclass(frozen=True)
class Asked:
    """The parameters as the analysis reads them: flat, every budget in one order.

    Attributes:
        metric: The column that is the score.
        drop_threshold: Of the point rule.
        margin: Of the calibrated rule: a smaller drop is none.
        alpha: Of the calibrated rule, both directions together.
        confidence: Of the intervals.
        resamples: Draws of each interval.
        seed: Of every draw.
        budgets: The planned ones, as the answers' frame has them.
        n_bins: How many length bins there are, the empty ones too.
        query_mode: ``agnostic`` or ``aware``.
        price_per_million_prompt_tokens: Of the cost proxy.
        price_per_million_completion_tokens: The same for generated tokens.
    """

    metric: str
    drop_threshold: float
    margin: float
    alpha: float
    confidence: float
    resamples: int
    seed: int
    budgets: tuple[float, ...]
    n_bins: int
    query_mode: str
    price_per_million_prompt_tokens: float | None = None
    price_per_million_completion_tokens: float | None = None

    @classmethod
    def of(cls, params: KVBudgetTransitionParams, answers: Answers) -> Self:
        """Return the parameters for these answers: a number of entries stands where it does there.

        The margin is at least the noise floor: a drop that budget 1.0 shows against itself is none.

        Raises:
            InputError: The metric cannot be chosen, or computed (`metric_of`).
        """
        metric, frame = metric_of(params, answers.scored_by), answers.frame
        noise = controls.floor(frame, metric) or 0.0
        analysis = params.analysis.model_dump() | {"metric": metric}
        analysis["margin"] = max(params.analysis.margin, math.ceil(noise * 1e4) / 1e4)
        known = dict(zip(frame["asked"], frame["budget"], strict=True))
        return cls(
            **analysis,
            seed=params.seed,
            budgets=tuple(known.get(b, b) for b in params.kv.budgets if b in known or b <= 1),
            n_bins=params.dataset.bins if answers.bins is None else answers.bins,
            query_mode=params.kv.query_mode,
        )


@dataclass(frozen=True)
class Analysis:
    """All results of a run; the functions that make them say what they are.

    Attributes:
        asked: The parameters.
        frame: The answers of the run's query mode.
        stats: One row per policy, budget and bin (`kvlab.compression.transition.bins.bin_table`).
        focus: The budget that bins, failures and flips are read at: that of the call, without one the
            budget with the largest mean drop; ``None`` where there is nothing below 1.0.
    """

    asked: Asked
    frame: pd.DataFrame
    stats: pd.DataFrame
    scores: Scores
    drops: tuple[Drop, ...]
    call: TransitionCall
    bin_calls: list[BinCall]
    point: PointTransition
    half: Location
    margin: Location
    detectable: Detectable
    bin_detectable: list[Detectable]
    focus: float | None
    worst: list[float | None]
    flips: list[flips.Flips]
    parts: list[failures.Parts]
    treatments: dict[Treatment, TransitionCall]
    integrity: pd.DataFrame
    noise: controls.NoiseFloor
    random: list[controls.Beside]
    no_context: controls.Beside | None
    assertions: list[sanity.Assertion]
    efficiency: pd.DataFrame

    @property
    def called_drop(self) -> Drop | None:
        """The drop at the call's budget; without a call, at the smallest planned one."""
        drops = self.call.drops
        at = next((drop for drop in drops if drop.budget == self.call.fails_at), None)
        return at or (drops[-1] if drops else None)


def analyse(frame: pd.DataFrame, asked: Asked) -> Analysis:
    """Return all results of the answers.

    Args:
        frame: One row per answer; see `kvlab.compression.transition.scores.collect` for the columns it must have.
        asked: The parameters.

    Raises:
        InputError: The metric is not there, or an example has two answers at one budget.
    """
    frame = frame[frame["query_mode"] == asked.query_mode]
    scores = collect(frame, asked.metric, asked.budgets)
    rule: dict[str, Any] = {"margin": asked.margin, "alpha": asked.alpha, "seed": asked.seed}
    draws: dict[str, Any] = {"seed": asked.seed, "resamples": asked.resamples}
    made = call(scores, **rule)
    focus = made.fails_at if made.fails_at is not None else _largest_drop(made.drops)
    how = controls.Resampling(asked.confidence, asked.seed, asked.resamples)
    place = {"margin": asked.margin, "confidence": asked.confidence, **draws}
    return Analysis(
        asked=asked,
        frame=frame,
        stats=bins.bin_table(
            frame,
            metric=asked.metric,
            n_bins=asked.n_bins,
            confidence=asked.confidence,
            **draws,
        ),
        scores=scores,
        drops=drops_of(scores, **rule),
        call=made,
        bin_calls=call_bins(scores, n_bins=asked.n_bins, **rule),
        point=point_rule(
            scores.plan.budgets, scores.plan.filled(), scores.bins, threshold=asked.drop_threshold
        ),
        half=locate(scores, threshold="half", **place),
        margin=locate(scores, threshold="margin", **place),
        detectable=_detectable(scores, asked, 1),
        bin_detectable=[
            _detectable(scores.only(scores.bins == b), asked, asked.n_bins) for b in range(asked.n_bins)
        ],
        focus=focus,
        worst=[None] * asked.n_bins
        if focus is None
        else bins.worst_bin(scores, focus, n_bins=asked.n_bins, **draws),
        flips=flips.every(scores),
        parts=[failures.decompose(scores, float(budget)) for budget in scores.budgets[1:]],
        treatments=failures.by_treatment(scores, **rule),
        integrity=failures.integrity(frame[frame["phase"].isin(CURVE)]),
        noise=controls.noise_floor(frame, asked.metric, how),
        random=controls.random_policy(frame, asked.metric, how),
        no_context=controls.no_context(frame, asked.metric, how),
        assertions=sanity.assertions(scores, margin=asked.margin, alpha=asked.alpha, seed=asked.seed),
        efficiency=efficiency.profile(
            frame,
            price_per_million_prompt_tokens=asked.price_per_million_prompt_tokens,
            price_per_million_completion_tokens=asked.price_per_million_completion_tokens,
        ),
    )


def _largest_drop(drops: Sequence[Drop]) -> float | None:
    known = [(drop.estimate, drop.budget) for drop in drops if drop.estimate is not None]
    return max(known)[1] if known else None


def _detectable(scores: Scores, asked: Asked, looks: int) -> Detectable:
    plan = scores.plan
    drops = plan.drops()[:, plan.budgets < FULL]
    return minimum_detectable(drops, plan.clusters, margin=asked.margin, level=asked.alpha / 2 / looks)
