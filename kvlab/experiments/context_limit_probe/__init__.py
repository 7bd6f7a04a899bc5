"""Context-limit probe: the longest context that still works, what a token costs, and constants to paste.

A server has several limits, and the one that it states is only the first: it refuses what is longer.
Memory may end before that, or the cache, or patience; and long before any of them a model may no
longer answer what stands at the start of its context, which raises no error at all. Each is looked
for with real requests; none is believed because somebody says so.

The physics: a token takes 2 · layers · kv_heads · head_dim · bytes of KV cache. An engine that
allocated its cache when it started does not show that in its memory; a bare transformers model does,
so the same weights are also loaded in a child process that may die of it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import Prompt
from kvlab.errors import InputError
from kvlab.experiment import Experiment
from kvlab.experiments.context_limit_probe import material
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.plan import Kind, plan
from kvlab.findings import Summary
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from kvlab.session import Lab


class ContextLimitProbe(Experiment[ContextLimitProbeParams]):
    """Grow, bisect, find out why, recommend, and try the recommendation."""

    name = "context_limit_probe"
    title = "Context limit: how long a context may be, what a token costs, and the constants that follow"
    needs = ()
    proof = "limits and times, whatever the server says of its cache"
    Params = ContextLimitProbeParams

    def template_hash(self) -> str:
        """Return the hash of the conversation, the facts and the questions."""
        return material.template_hash()

    def samples(self, params: ContextLimitProbeParams) -> tuple[Prompt, Prompt]:
        """Return two short contexts of different markers."""
        first, second = (
            material.conversation(mark, params.needles, params.growth, params.text_seed, 1)
            for mark in ("0" * 16, "f" * 16)
        )
        return {"messages": first}, {"messages": second}

    def check(self, params: ContextLimitProbeParams, max_model_len: int | None) -> None:
        """Refuse cold prompts that the model cannot take; the growing context may be as long as it likes."""
        if max_model_len is None or not params.cold_tokens:
            return
        if params.cold_tokens[-1] + params.decode_tokens > max_model_len:
            fix = (
                f"and {params.decode_tokens} generated tokens do not fit the model's context of {max_model_len}; "
                f"it may be {max_model_len - params.decode_tokens} at most"
            )
            raise InputError("cold_tokens", params.cold_tokens[-1], fix)

    def check_engine(self, params: ContextLimitProbeParams, engine: Any) -> None:  # noqa: ANN401 - its own engine
        """Refuse cold prompts that are too short, and a child that this machine has no memory for, or no model."""
        _check_cold(params, engine)
        if not params.dtypes:
            return
        named, free = params.in_process_model, psutil.virtual_memory().available
        if named and named[0] in "/.~" and not (Path(named).expanduser() / "config.json").is_file():
            raise InputError(
                "in_process_model", named, "is no folder with a config.json; name a model folder"
            )
        if (named or engine.connection.embedded is not None) and params.headroom_mib * 2**20 > free:
            fix = f"is more than the {free // 2**20} MiB that are free on this machine; lower it"
            raise InputError("headroom_mib", params.headroom_mib, fix)

    def plan(self, params: ContextLimitProbeParams) -> list[Trial]:
        """Return the steps; see `kvlab.experiments.context_limit_probe.plan`."""
        return plan(params)

    def facts(self, params: ContextLimitProbeParams) -> dict[str, Any]:
        """Return what a run may do; how long its prompts are is found on the way."""
        return {
            "points of growth": len(params.exchanges),
            "bisection steps at most": params.cut_steps,
            "questions a point": params.needles,
            "child processes at least": len(params.dtypes),
            "memory that a child may take, MiB": params.headroom_mib if params.dtypes else 0,
            "replayed turns": params.replay_exchanges * len(params.interval_factors),
        }

    def attempt(self, lab: "Lab[ContextLimitProbeParams]", trial: Trial, attempt: int) -> list[Recorded]:
        """Do one step; none is needed where an earlier one has answered it: then there are no requests."""
        from kvlab.experiments.context_limit_probe import (
            steps,
        )  # with pandas, only where something is measured

        return steps.take(lab, trial, attempt)

    def close(self, lab: "Lab[ContextLimitProbeParams]") -> None:
        """Stop looking at memory."""
        from kvlab.experiments.context_limit_probe import bench

        bench.close(lab)

    def is_result(self, lab: "Lab[ContextLimitProbeParams]", trial: Trial, row: Recorded) -> bool:
        """Whether a failure is the limit that was looked for, or an empty answer where only reading counts."""
        from kvlab.experiments.context_limit_probe.bench import bench_of

        empty = row.was_read and trial.planned["kind"] != Kind.COLD  # there, the TTFT is all that is wanted
        return empty or row.request_id in bench_of(lab).results

    def line(self, trial: Trial, rows: Sequence[Recorded]) -> str:
        """Return what became of a step."""
        if not rows:
            return "not needed"
        failure = rows[0].measurement.failure
        if failure is not None and not rows[0].was_read:
            return failure.message[:120]
        if trial.planned["kind"] == Kind.REPLAY:
            return f"{len(rows)} turns, {sum(row.arm.startswith('trim') for row in rows)} trims"
        tokens, ttft = rows[0].evidence.prompt_tokens, rows[0].measurement.stamps.ttft_ms
        taken = "" if ttft is None else f", TTFT {ttft:.0f} ms"
        return f"{tokens} tokens{taken}"

    def summarize(
        self, frame: "pd.DataFrame", params: ContextLimitProbeParams, profile: str, identity: Identity | None
    ) -> Summary:
        """Return the verdict with its grounds."""
        from kvlab.experiments.context_limit_probe import verdict  # with pandas, only where there are results

        return verdict.summarize(frame, params, profile, identity)

    def draw(
        self, frame: "pd.DataFrame", summary: Summary, params: ContextLimitProbeParams
    ) -> "dict[str, Figure]":
        """Return the figures of the report."""
        from kvlab.experiments.context_limit_probe import pictures  # with matplotlib

        return pictures.draw(frame, params)

    def exports(
        self,
        frame: "pd.DataFrame",
        params: ContextLimitProbeParams,
        stored: Mapping[str, Any],
        identity: Identity | None,
    ) -> dict[str, str | bytes]:
        """Return ``context_limit_results.json``, ``recommended.env`` and ``recommended.py``."""
        from kvlab.experiments.context_limit_probe import exports

        return exports.exports(frame, params, stored, identity)


def _check_cold(params: ContextLimitProbeParams, engine: Any) -> None:  # noqa: ANN401 - its own engine
    """Refuse a cold prompt that is shorter than the facts and a request: only token ids can be cut anywhere."""
    if not params.cold_tokens or (engine.identity.can("token_ids") and engine.identity.can("tokenizer")):
        return
    least = engine.counter(
        {"messages": material.conversation("0" * 16, params.needles, params.growth, params.text_seed, 0)}
    )
    if params.cold_tokens[0] < least:
        fix = f"is below the {least} tokens of the facts and one request, and this server takes no token ids; raise it"
        raise InputError("cold_tokens", params.cold_tokens[0], fix)


EXPERIMENT = ContextLimitProbe()
