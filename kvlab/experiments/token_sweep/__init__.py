"""Token sweep: what does a cached prefix save, at each prompt length?

Prefill computes every prompt token that is not in the cache, so a cold TTFT grows with the prompt
(linearly through the matrix products, quadratically through attention). A full hit leaves only the
tail of the last block to compute, so its TTFT should stay nearly flat. Each pair asks the same
tokens twice, cold then hit, and the saving is worked out within the pair.
"""

import random
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import Counter, Prompt
from kvlab.endpoints.openai import Call
from kvlab.errors import InputError
from kvlab.evidence import CacheState
from kvlab.experiment import Experiment
from kvlab.experiments.token_sweep.params import TokenSweepParams
from kvlab.findings import Summary
from kvlab.prompts import exact, manual
from kvlab.records import Recorded, Trial

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from kvlab.endpoints.openai import OpenAICompat
    from kvlab.session import Lab

ARMS = ("cold", "hit")
_NAMES = exact.Names("token_targets", "manual_sections")


class TokenSweep(Experiment[TokenSweepParams]):
    """Cold against hit over prompt length."""

    name = "token_sweep"
    title = "Token sweep: cold against cache hit over prompt length"
    Params = TokenSweepParams

    def template_hash(self) -> str:
        """Return the hash of the manual and the prompt around it."""
        return manual.template_hash()

    def samples(self, params: TokenSweepParams) -> tuple[Prompt, Prompt]:
        """Return two short prompts of different markers."""
        first, second = (manual.marker("sample", tag) for tag in "ab")
        return self._build(params, first, "Section 1."), self._build(params, second, "Section 1.")

    def check(self, params: TokenSweepParams, max_model_len: int | None) -> None:
        """Refuse a prompt that, with its answer, does not fit the context."""
        longest = max(params.token_targets)
        if max_model_len is not None and longest + params.max_tokens > max_model_len:
            fix = (
                f"and max_tokens {params.max_tokens} do not fit the model's context of {max_model_len} tokens; "
                f"the longest target that fits is {max_model_len - params.max_tokens} "
                "(--profile smoke fits the embedded model)"
            )
            raise InputError("token_targets", longest, fix)

    def check_engine(self, params: TokenSweepParams, engine: "OpenAICompat") -> None:
        """Refuse lengths that the document cannot reach, or that the prompt without it exceeds."""
        mark = secrets.token_hex(8)  # nobody else's: where the server cannot tokenize, it reads the document
        text = manual.manual(params.manual_seed, params.manual_sections, mark)
        targets = params.token_targets
        exact.calibrate(lambda cut: self._build(params, mark, cut), text, targets, engine.counter, _NAMES)
        for target in {min(targets), max(targets)}:
            self._prompt(params, engine.counter, target, manual.marker("check", str(target)))

    def plan(self, params: TokenSweepParams) -> list[Trial]:
        """Return one pair for each repeat of each length."""
        draw = random.Random(params.seed)  # noqa: S311 - an order, not a secret
        order: list[tuple[int, int]] = []
        for repeat in range(1, params.repeats + 1):
            targets = list(params.token_targets)
            if params.order == "random":
                draw.shuffle(targets)
            order += [(target, repeat) for target in targets]
        return [
            Trial(f"{target:06d}-r{repeat:02d}", ordinal, str(target), repeat, {"target_tokens": target})
            for ordinal, (target, repeat) in enumerate(order)
        ]

    def facts(self, params: TokenSweepParams) -> dict[str, Any]:
        """Return what a run costs: requests, and prompt tokens sent and computed if every hit hits."""
        sent = sum(params.token_targets) * params.repeats
        return {
            "pairs": len(params.token_targets) * params.repeats,
            "requests": 2 * len(params.token_targets) * params.repeats,
            "prompt tokens sent": 2 * sent,
            "prompt tokens computed, if every hit hits": sent,
            "generated tokens, at most": 2 * len(params.token_targets) * params.repeats * params.max_tokens,
        }

    def warm_up(self, lab: "Lab[TokenSweepParams]", attempt: int) -> list[Recorded]:
        """Make one unmeasured request of the shortest length, with a document of its own."""
        trial = Trial("warmup", -1, "warmup", 0)
        target = min(lab.params.token_targets)
        mark = manual.marker(lab.run.isolation_id, lab.tag(trial, attempt))
        prompt = self._prompt(lab.params, lab.counter, target, mark)
        return [
            lab.engine.ask(self._call(lab, trial, attempt, "warmup", prompt, mark, target, measured=False))
        ]

    def attempt(self, lab: "Lab[TokenSweepParams]", trial: Trial, attempt: int) -> list[Recorded]:
        """Ask the same tokens twice: cold, then hit."""
        target = int(trial.planned["target_tokens"])
        mark = manual.marker(lab.run.isolation_id, lab.tag(trial, attempt))
        prompt = self._prompt(lab.params, lab.counter, target, mark)
        rows: list[Recorded] = []
        for arm in ARMS:
            rows.append(lab.engine.ask(self._call(lab, trial, attempt, arm, prompt, mark, target)))
            if not rows[-1].ok:
                break
        return rows

    def _prompt(self, params: TokenSweepParams, counter: Counter, target: int, mark: str) -> Prompt:
        text = manual.manual(params.manual_seed, params.manual_sections, mark)
        return exact.fit(lambda cut: self._build(params, mark, cut), text, target, counter, _NAMES).prompt

    @staticmethod
    def _build(params: TokenSweepParams, mark: str, cut: str) -> Prompt:
        return manual.build(
            mark, cut, api=params.api, question=manual.QUESTION, marker_role=params.marker_role
        )

    def _call(
        self,
        lab: "Lab[TokenSweepParams]",
        trial: Trial,
        attempt: int,
        arm: str,
        prompt: Prompt,
        mark: str,
        target: int,
        *,
        measured: bool = True,
    ) -> Call:
        return Call(
            request_id=f"{lab.run.experiment_id}/{lab.tag(trial, attempt)}/{arm}",
            arm=arm,
            prompt=prompt,
            decoding={"max_tokens": lab.params.max_tokens, "temperature": lab.params.temperature},
            salt=mark,
            attempt=attempt,
            target_tokens=target,
            shared_tokens=lab.shared_tokens,
            measured=measured,
            calibrates=arm != "hit",  # some servers leave cached tokens out of their count
        )

    def line(self, trial: Trial, rows: Sequence[Recorded]) -> str:
        """Return the pair's times with the evidence behind them."""
        return "; ".join(f"{row.arm} {row.measurement.stamps.ttft_ms:.0f} ms, {_cached(row)}" for row in rows)

    def summarize(
        self, frame: "pd.DataFrame", params: TokenSweepParams, profile: str, identity: Identity | None
    ) -> Summary:
        """Return the verdict with its grounds."""
        from kvlab.experiments.token_sweep import analysis  # with pandas, only where there are results

        return analysis.summarize(frame, params, self.plan(params), profile, identity)

    def draw(self, frame: "pd.DataFrame", summary: Summary, params: TokenSweepParams) -> "dict[str, Figure]":
        """Return the figures of the report."""
        from kvlab.experiments.token_sweep import analysis, pictures  # with pandas and matplotlib

        return pictures.draw(analysis.pairs(frame), params)


def _cached(row: Recorded) -> str:
    """Return the evidence, and the label where it is not what the arm was meant to be."""
    if row.state is CacheState.UNVERIFIED:
        return f"unverified ({row.label.reason})"
    of = "" if row.label.predicted_tokens is None else f"/{row.label.predicted_tokens}"
    surprise = "" if row.state == row.arm else f" ({row.state}!)"
    return f"{row.label.cached_tokens}{of} cached{surprise}"


EXPERIMENT = TokenSweep()
