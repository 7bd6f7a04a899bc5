"""KV-budget transition: with how little of the KV cache do answers stay right, and where do they break?

The keys and values of a context are what its answers are read from. A policy keeps a part of them,
the budget, and drops the rest for good. Attention looks at few entries, so much can go unnoticed;
but what is dropped before the question is known may be the answer. The same questions are asked at
each budget, out of one prefill, and the drop is tested within each question.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvlab.compression.policies import Budget
from kvlab.endpoints import engines
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import Prompt
from kvlab.errors import InputError
from kvlab.experiment import Experiment, Streamed
from kvlab.experiments.kv_budget_transition import arms, plan, prepared, store
from kvlab.experiments.kv_budget_transition.asked import metric_of
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.experiments.kv_budget_transition.prepared import answer_limit
from kvlab.findings import Summary
from kvlab.records import Recorded, Trial
from kvlab.settings import Settings
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.database import Database
from kvlab.taxonomy import RETRYABLE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from kvlab.session import Lab


#: Flags of the engine in this process under which the same prompt gives the same tokens.
EXACT = {"dtype=float32", "device=cpu"}


class KVBudgetTransition(Experiment[KVBudgetTransitionParams]):
    """Accuracy over the KV budget, by length bin."""

    name = "kv_budget_transition"
    title = "KV-budget transition: where accuracy breaks, and how sure that is"
    engine = "transformers_kv"
    needs = ()
    proof = "the KV entries kept, read from the cache's own tensors"
    Params = KVBudgetTransitionParams

    def open_engine(self, params: KVBudgetTransitionParams, settings: Settings, check: engines.Check) -> Any:  # noqa: ANN401 - one of two engines
        """Open the model in this process, or connect to the endpoint and let it show its budgets."""
        from kvlab.experiments.kv_budget_transition import opening

        return opening.open_engine(params, settings, check)

    def hold(
        self, params: KVBudgetTransitionParams, settings: Settings, check: engines.Check
    ) -> AbstractContextManager[None]:
        """Keep an endpoint up; a model in the notebook's process needs nothing."""
        return engines.module(params.engine.name).hold(settings, check)

    def contract(self, params: KVBudgetTransitionParams) -> dict[str, Any]:
        """Return the dataset, the policy and the query mode, and the parameters but for those of the analysis."""
        manifest = prepared.manifest(params)
        return {
            "params": prepared.identity(params),
            "dataset_hash": manifest.dataset_hash,
            "prompt_template_hash": manifest.template.hash,
            "tokenizer": f"{manifest.tokenizer.name} ({manifest.tokenizer.revision})",
            "policy": params.kv.policy,
            "query_mode": params.kv.query_mode,
        }

    def recall(self, folder: Path, params: KVBudgetTransitionParams) -> None:
        """Keep the dataset of the run's database at hand: its source may be gone."""
        if not (folder / DATABASE).is_file():  # a new one
            return
        with Database(folder / DATABASE) as database:
            if store.count(database, "datasets"):
                prepared.remember(params, store.manifest_of(database))

    def template_hash(self) -> str:
        """Return what the contract replaces by the dataset's own template."""
        return "of the dataset"

    def samples(self, params: KVBudgetTransitionParams) -> tuple[Prompt, Prompt]:
        """Return two prompts; what they share is of no concern here."""
        return {"prompt": "A"}, {"prompt": "B"}

    def check(self, params: KVBudgetTransitionParams, max_model_len: int | None) -> None:
        """Refuse a metric that the dataset has not, prompts that with their answers do not fit, budgets that prune nothing."""
        manifest = prepared.manifest(params)
        examples = [example for _, example in manifest.items()]
        metric_of(params, {str(example.meta["metric"]) for example in examples})
        _refuse_whole(params, min((entry.token_len for entry in manifest.entries), default=0))
        if max_model_len is None:
            return
        prompts = prepared.prompt_tokens(params)
        needed = {x.example_id: prompts[x.example_id] + answer_limit(params, x) for x in examples}
        longest = max(needed, key=lambda name: needed[name])
        if needed[longest] > max_model_len:
            fix = (
                f"tokens are what context, question and answer of {longest} need, and the model has "
                f"{max_model_len}; choose shorter ones (dataset.lengths_tokens, dataset.max_length_tokens)"
            )
            raise InputError("dataset", needed[longest], fix)

    def check_engine(self, params: KVBudgetTransitionParams, engine: Any) -> None:  # noqa: ANN401 - one of two engines
        """Refuse a budget that the policy cannot honour on some context."""
        if params.engine.name == "transformers_kv":
            from kvlab.experiments.kv_budget_transition import local

            local.check_budgets(params, prepared.manifest(params))

    def plan(self, params: KVBudgetTransitionParams) -> list[Trial]:
        """Return one trial for each example and round."""
        return plan.plan(params, prepared.manifest(params))

    def facts(self, params: KVBudgetTransitionParams) -> dict[str, Any]:
        """Return what a run costs."""
        manifest = prepared.manifest(params)
        tokens = sum(entry.token_len for entry in manifest.entries)
        rounds = 1 + params.rounds
        timed = sum(bool(trial.planned["timed"]) for trial in self.plan(params))
        return {
            "examples": len(manifest.entries),
            "bins": manifest.n_bins,
            "answers that are planned": sum(
                len(arms.planned(params, i)) for i in range(len(manifest.entries))
            ),
            "budgets that may be added": params.rounds,
            "context tokens to prefill": tokens,
            "and at most, if nothing is kept for the added budgets": tokens * rounds,
            "answers taken alone, for their times": timed * len(arms.timed(params)),
        }

    def attempt(self, lab: "Lab[KVBudgetTransitionParams]", trial: Trial, attempt: int) -> list[Recorded]:
        """Ask one example in this process, under all arms of its round."""
        from kvlab.experiments.kv_budget_transition import local

        store.put_manifest(lab.run.database, prepared.manifest(lab.params))
        return local.attempt(lab, trial, attempt)

    def streams_with(self, params: KVBudgetTransitionParams) -> bool:
        """Whether answers are stored one by one: an endpoint's are paid for one by one."""
        return params.engine.name == "openai_compat"

    def stream(self, lab: "Lab[KVBudgetTransitionParams]", trial: Trial, attempt: int) -> Streamed:
        """Ask an endpoint what an example still lacks."""
        from kvlab.experiments.kv_budget_transition import remote

        store.put_manifest(lab.run.database, prepared.manifest(lab.params))
        rows, done = remote.ask(lab, trial)
        return Streamed(done, self.line(trial, rows))

    def is_result(self, lab: "Lab[KVBudgetTransitionParams]", trial: Trial, row: Recorded) -> bool:
        """Whether a failure is a result of its budget: not where the serving failed, which a later run may mend."""
        failure = row.measurement.failure
        return failure is None or failure.error_type not in RETRYABLE

    def line(self, trial: Trial, rows: Sequence[Recorded]) -> str:
        """Return what was answered at each budget, shortened, and how many requests failed."""
        if not rows:
            return "nothing to ask"
        shown = [
            row for row in rows if row.phase in (arms.PLANNED, arms.ADDED, arms.TIMED) and row.kv is not None
        ]
        said = [f"{Budget.of(row.kv.budget).label} {_begin(row)}" for row in shown if row.kv is not None]
        failed = sum(not row.ok for row in rows)
        return " · ".join(said) + (f" · {failed} of {len(rows)} requests failed" if failed else "")

    def derive(self, database: Database, params: KVBudgetTransitionParams) -> None:
        """Score what is not scored yet, and bring bin_stats and transition_summary up to date."""
        from kvlab.experiments.kv_budget_transition import derived

        derived.bring_up_to_date(database, params)

    def load(
        self, sql: sqlite3.Connection, requests: "pd.DataFrame", params: KVBudgetTransitionParams
    ) -> "pd.DataFrame":
        """Return the answers with their scores, in place of the requests."""
        from kvlab.experiments.kv_budget_transition import frame

        return frame.answers(sql, params.kv.query_mode)

    def summarize(
        self, frame: "pd.DataFrame", params: KVBudgetTransitionParams, profile: str, identity: Identity | None
    ) -> Summary:
        """Return the verdict with its grounds."""
        # With pandas: only where there are results.
        from kvlab.experiments.kv_budget_transition import verdict
        from kvlab.experiments.kv_budget_transition.asked import Asked

        planned = frame.attrs["examples"] * len(params.kv.budgets)
        asked = Asked.of(params, frame)
        trials = frame.attrs["trials_done"], frame.attrs["trials"]
        on_endpoint = params.engine.name == "openai_compat"
        return verdict.summarize(
            frame,
            asked,
            profile,
            identity,
            planned_answers=planned,
            trials=trials,
            tolerance=params.engine.kept_tolerance_tokens if on_endpoint else 0,
            deterministic=not on_endpoint and (identity is None or set(identity.flags) >= EXACT),
        )

    def draw(
        self, frame: "pd.DataFrame", summary: Summary, params: KVBudgetTransitionParams
    ) -> "dict[str, Figure]":
        """Return the figures of the report."""
        from kvlab.experiments.kv_budget_transition import pictures  # with pandas and matplotlib
        from kvlab.experiments.kv_budget_transition.asked import Asked

        return pictures.draw(frame, Asked.of(params, frame))

    def exports(
        self,
        frame: "pd.DataFrame",
        params: KVBudgetTransitionParams,
        stored: Mapping[str, Any],
        identity: Identity | None,
    ) -> dict[str, str | bytes]:
        """Return every answer as a CSV."""
        from kvlab.store import requests_csv  # with pandas

        return {"answers.csv": requests_csv.text(frame, float_format="%.6f")}


def _begin(row: Recorded) -> str:
    """Return how an answer begins, or why there is none."""
    if row.measurement.generation is None:
        return str(row.measurement.failure.error_type) if row.measurement.failure else "no answer"
    text = " ".join(row.measurement.generation.text.split())
    return repr(text if len(text) <= 16 else f"{text[:15]}…")


EXPERIMENT = KVBudgetTransition()


def _refuse_whole(params: KVBudgetTransitionParams, shortest: int) -> None:
    """Refuse a number of entries that keeps the shortest context whole."""
    whole = next((budget for budget in params.kv.budgets if budget > 1 and budget >= shortest), None)
    if whole is not None:
        fix = f"is no smaller than the shortest context, of {shortest} tokens, which it would keep whole; use fewer entries"
        raise InputError("kv.budgets", whole, fix)
