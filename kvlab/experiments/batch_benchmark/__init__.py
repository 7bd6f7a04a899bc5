"""Batch benchmark: will 170,000 requests finish, when, and at what saving?

The requests of a batch share a system prompt, so the server should compute it once. How much that saves
depends on how the requests are put: independently, in growing conversations, all at once, as a batch job.
A control with the prefix broken says what the cache is worth. From trials of growing size the time of the
whole batch is extrapolated, and the extrapolation is checked on the largest size before it is believed.
"""

import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import Prompt
from kvlab.endpoints.openai import Call, OpenAICompat
from kvlab.errors import InputError
from kvlab.experiment import Experiment, Streamed
from kvlab.experiments.batch_benchmark import plan as plans
from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
from kvlab.findings import Summary
from kvlab.prompts import batch, manual
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from kvlab.session import Lab


class BatchBenchmark(Experiment[BatchBenchmarkParams]):
    """Throughput, savings and an extrapolation that is checked."""

    name = "batch_benchmark"
    title = "Batch benchmark: will so many requests finish, when, and at what saving?"
    streams = True
    Params = BatchBenchmarkParams

    def template_hash(self) -> str:
        """Return the hash of the handbook, the system message and the questions."""
        return batch.template_hash()

    def samples(self, params: BatchBenchmarkParams) -> tuple[Prompt, Prompt]:
        """Return two short prompts of different markers."""
        first, second = (
            {
                "messages": [
                    batch.system_message(manual.marker("sample", tag), "Section 1."),
                    batch.question(0, 0),
                ]
            }
            for tag in "ab"
        )
        return first, second

    def check(self, params: BatchBenchmarkParams, max_model_len: int | None) -> None:
        """Refuse prompts that, with their answers, do not fit the context, and more connections than can be."""
        interval, keep = plans.trimming(params)
        plans.check_connections(params)
        if max_model_len is None:
            return
        grown = params.prompt_tokens
        if "conversation" in params.strategies:
            # Until it is trimmed, a conversation grows by a question (about 40 tokens) and an answer a turn.
            longest = interval + keep // 2
            turns = min(longest, max(params.sizes) // (params.conversations or params.concurrency))
            grown += turns * (40 + params.max_tokens)
        if grown + params.max_tokens > max_model_len:
            fix = (
                f"can grow to about {grown + params.max_tokens:,} tokens within a conversation's {interval} exchanges, "
                f"more than the model's context of {max_model_len:,}; lower trim_interval, max_tokens or prompt_tokens"
            )
            raise InputError("prompt_tokens", params.prompt_tokens, fix)

    def check_engine(self, params: BatchBenchmarkParams, engine: OpenAICompat) -> None:
        """Refuse a prompt length that the handbook cannot give."""
        from kvlab.experiments.batch_benchmark import jobs

        jobs.handbook(params, engine.counter)

    def plan(self, params: BatchBenchmarkParams) -> list[Trial]:
        """Return every strategy at every size."""
        return plans.plan(params)

    def facts(self, params: BatchBenchmarkParams) -> dict[str, Any]:
        """Return what a run costs."""
        requests = sum(params.sizes) * len(params.strategies) * params.repeats
        return {
            "trials": len(self.plan(params)),
            "requests": requests,
            "prompt tokens sent, conversations' growth apart": requests * params.prompt_tokens,
            "generated tokens, at most": requests * params.max_tokens,
            "target requests": params.target_requests,
        }

    def warm_up(self, lab: "Lab[BatchBenchmarkParams]", attempt: int) -> list[Recorded]:
        """Make one unmeasured request with a marker of its own."""
        mark = manual.marker(lab.run.isolation_id, lab.tag(Trial("warmup", -1, "warmup", 0), attempt))
        call = Call(
            request_id=f"{lab.run.experiment_id}/warmup.s{lab.run.session_id}.a{attempt}",
            arm="warmup",
            prompt={
                "messages": [batch.system_message(mark, "Section 1."), batch.question(lab.params.seed, 0)]
            },
            decoding={"max_tokens": lab.params.max_tokens, "temperature": lab.params.temperature},
            salt=mark,
            attempt=attempt,
            shared_tokens=lab.shared_tokens,
            measured=False,
        )
        return [lab.engine.ask(call)]

    def stream(self, lab: "Lab[BatchBenchmarkParams]", trial: Trial, attempt: int) -> Streamed:
        """Send what is left of a trial."""
        from kvlab.experiments.batch_benchmark import batch_api, measure

        if trial.planned["strategy"] == "batch_api":
            return measure.watched(lab, trial, attempt, lambda: batch_api.stream(lab, trial, attempt))
        return measure.stream(lab, trial, attempt)

    def load(
        self, sql: sqlite3.Connection, requests: "pd.DataFrame", params: BatchBenchmarkParams
    ) -> "pd.DataFrame":
        """Return what is needed of the requests, with stretches, memory and the gaps between tokens in ``attrs``."""
        from kvlab.experiments.batch_benchmark import data  # with pandas, only where there are results

        return data.needed(requests, data.read(sql))

    def summarize(
        self, frame: "pd.DataFrame", params: BatchBenchmarkParams, profile: str, identity: Identity | None
    ) -> Summary:
        """Return the verdict with its grounds."""
        from kvlab.experiments.batch_benchmark import verdict

        return verdict.summarize(frame, params, profile, identity)

    def draw(
        self, frame: "pd.DataFrame", summary: Summary, params: BatchBenchmarkParams
    ) -> "dict[str, Figure]":
        """Return the figures of the report."""
        from kvlab.experiments.batch_benchmark import forecast, pictures  # with pandas and matplotlib

        return pictures.draw(frame, *forecast.judged(frame, params, None), params)

    def exports(
        self,
        frame: "pd.DataFrame",
        params: BatchBenchmarkParams,
        stored: Mapping[str, Any],
        identity: Identity | None,
    ) -> dict[str, str | bytes]:
        """Return ``performance_benchmarks.json``."""
        import json

        from kvlab.experiments.batch_benchmark import forecast, performance

        found = performance.performance_benchmarks(*forecast.judged(frame, params, identity), params)
        content = {"started_utc": stored["created_utc"], **found}
        return {"performance_benchmarks.json": json.dumps(content, indent=2) + "\n"}


EXPERIMENT = BatchBenchmark()
