"""Prefix hit against miss inside vLLM: what the cache saves, and what a careless procedure makes of it.

A hit is [A, B, Q] after [A, B] was put into the cache; a miss is [B, Q]. A prefix cache knows tokens
by all that stands before them, so B behind A does not serve B alone. The miss should compute all of
its tokens, the hit only Q and the tail of a block. But the first miss puts its own tokens into the
cache: measured ten times with the same prompt, nine of the misses are hits.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import Prompt
from kvlab.errors import InputError
from kvlab.experiment import Experiment
from kvlab.experiments.prefix_hit_miss import plan as plans
from kvlab.experiments.prefix_hit_miss import procedures
from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams
from kvlab.findings import Summary
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from kvlab.session import Lab


class PrefixHitMiss(Experiment[PrefixHitMissParams]):
    """[A, B, Q] against [B, Q], as it was written and as it can be proven."""

    name = "prefix_hit_miss"
    title = "Prefix hit against miss, inside vLLM, and the contamination it hides"
    engine = "vllm_offline"
    Params = PrefixHitMissParams

    def template_hash(self) -> str:
        """Return the hash of the contexts' text and the question."""
        return procedures.template_hash()

    def samples(self, params: PrefixHitMissParams) -> tuple[Prompt, Prompt]:
        """Return two prompts of different contexts: bare text, which shares nothing."""
        return {"prompt": "A" + procedures.QUESTION}, {"prompt": "B" + procedures.QUESTION}

    def check(self, params: PrefixHitMissParams, max_model_len: int | None) -> None:
        """Refuse a pair of contexts that, with question and answer, does not fit the context."""
        if max_model_len is None:
            return
        generated = max(params.max_output_tokens + procedures.QUESTION_TOKENS_AT_MOST, params.warmup_tokens)
        size_a, size_b = max(params.configs, key=sum)
        if size_a + size_b + generated > max_model_len:
            fix = (
                f"are {size_a + size_b} tokens, and with the question and {params.max_output_tokens} generated "
                f"tokens do not fit the model's context of {max_model_len}; together they may have "
                f"{max(0, max_model_len - generated)}"
            )
            raise InputError("sizes", [size_a, size_b], fix)

    def plan(self, params: PrefixHitMissParams) -> list[Trial]:
        """Return the trials of all (A, B), procedures and conditions."""
        return plans.plan(params)

    def facts(self, params: PrefixHitMissParams) -> dict[str, Any]:
        """Return what a run costs."""
        trials = [plans.Planned(**trial.planned) for trial in self.plan(params)]
        counts = {
            f"{name} trials": sum(trial.procedure == name for trial in trials) for name in params.procedures
        }
        verified = [trial for trial in trials if trial.procedure == plans.VERIFIED]
        checks = sum(trial.condition == plans.HIT for trial in verified)
        warmups = sum(trial.condition == plans.WARMUP for trial in trials)
        return {
            **counts,
            "discarded trials among them": sum(trial.discarded for trial in trials),
            "generations": 2 * (len(trials) - warmups) + warmups + 2 * len(verified) + checks,
        }

    def attempt(self, lab: "Lab[PrefixHitMissParams]", trial: Trial, attempt: int) -> list[Recorded]:
        """Do one trial."""
        return procedures.attempt(lab, trial, attempt)

    def line(self, trial: Trial, rows: Sequence[Recorded]) -> str:
        """Return the trial's TTFT with the evidence behind it."""
        row = next((row for row in rows if row.arm.endswith(f"/{plans.TTFT}")), rows[-1])
        stamps, label = row.measurement.stamps, row.label
        taken = stamps.latency_ms if stamps.ttft_ms is None else stamps.ttft_ms
        again = ", after a new warm-up" if rows[0].arm.endswith(f"/{plans.REWARM}") else ""
        return f"{taken:.0f} ms, {label.cached_tokens} of {row.evidence.prompt_tokens} tokens cached{again}"

    def summarize(
        self, frame: "pd.DataFrame", params: PrefixHitMissParams, profile: str, identity: Identity | None
    ) -> Summary:
        """Return the verdict with its grounds."""
        from kvlab.experiments.prefix_hit_miss import verdict  # with pandas, only where there are results

        return verdict.summarize(frame, params, profile, identity)

    def draw(
        self, frame: "pd.DataFrame", summary: Summary, params: PrefixHitMissParams
    ) -> "dict[str, Figure]":
        """Return the figures of the report."""
        from kvlab.experiments.prefix_hit_miss import analysis, pictures  # with pandas and matplotlib

        return pictures.draw(analysis.trials(frame, params), params)

    def exports(
        self,
        frame: "pd.DataFrame",
        params: PrefixHitMissParams,
        stored: Mapping[str, Any],
        identity: Identity | None,
    ) -> dict[str, str | bytes]:
        """Return ``results_phase2_….json`` and ``experiment1_all_configs_….png``."""
        from kvlab.experiments.prefix_hit_miss import seed_json  # with pandas and matplotlib

        return seed_json.exports(frame, params, stored, identity)


EXPERIMENT = PrefixHitMiss()
