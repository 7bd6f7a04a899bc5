"""What is asked: one trial an example and round, and in each trial its arms: policies and budgets, and the controls.

A round of the refinement asks all examples at one more budget.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from kvlab.compression.datasets.manifest import Manifest
from kvlab.compression.policies import Budget
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.records import Trial

PLANNED, ADDED, TIMED = "planned", "added", "timed"
NOISE_FLOOR, RANDOM, NO_CONTEXT = "noise_floor", "control_random", "control_no_context"

#: Another seed than the parameters': the control must not follow what it controls.
RANDOM_POLICY = "random-s0"


@dataclass(frozen=True)
class Arm:
    """One way of asking an example.

    Attributes:
        phase: What it is for.
        policy_id: Whose entries are kept.
        budget: How many: a fraction, or a number of entries above 1.
    """

    phase: str
    policy_id: str
    budget: float

    @property
    def name(self) -> str:
        """Unique within a trial."""
        return f"{self.phase}:{self.policy_id}@{self.label}"

    @property
    def label(self) -> str:
        """How tables name the budget."""
        return Budget.of(self.budget).label

    @property
    def run_name(self) -> str:
        """Of the run that its answers belong to: one run for each engine setting."""
        kind = "kv" if self.phase in (PLANNED, ADDED) else self.phase
        return f"{kind}:{self.policy_id}@{self.label}"


def planned(params: KVBudgetTransitionParams, place: int) -> list[Arm]:
    """Return the arms of an example's first trial, by its place in the dataset.

    Budget 1.0 is repeated on every second example: the repeat has a prefill of its own, which is most of the cost.
    """
    kv = params.kv
    found = [Arm(PLANNED, kv.policy, budget) for budget in kv.budgets]
    if "noise_floor" in kv.controls and place % 2 == 0:
        found.append(Arm(NOISE_FLOOR, "full", 1.0))
    if "no_context" in kv.controls:
        found.append(Arm(NO_CONTEXT, "full", 1.0))
    return found + randoms(params, kv.budgets)


def added(params: KVBudgetTransitionParams, budget: float) -> list[Arm]:
    """Return the arms of a budget that the refinement adds."""
    return [Arm(ADDED, params.kv.policy, budget), *randoms(params, [budget])]


def timed(params: KVBudgetTransitionParams) -> list[Arm]:
    """Return the arms that are measured alone, for their times and their memory."""
    return [Arm(TIMED, params.kv.policy, budget) for budget in params.kv.budgets]


def randoms(params: KVBudgetTransitionParams, budgets: Iterable[float]) -> list[Arm]:
    """Return the random control at the budgets that prune, unless random is what is measured."""
    if "random" not in params.kv.controls or params.kv.policy.startswith("random"):
        return []
    return [Arm(RANDOM, RANDOM_POLICY, budget) for budget in budgets if budget != 1.0]


def trials(params: KVBudgetTransitionParams, manifest: Manifest) -> Iterator[Trial]:
    """Yield the trials in the order of measuring: all planned budgets, the added ones, the timed passes.

    Which budget a round adds is decided when it begins, out of the answers so far; that there is a
    round, and what it is called, is not. An endpoint's answers are paid for one by one, and stored so.
    """
    commit: Literal["whole", "each"] = "whole" if params.in_process else "each"

    def trial(prefix: str, example_id: str, bin_idx: int, round_number: int, arms: int) -> Trial:
        is_timed = prefix == "t-"
        facts = {"example_id": example_id, "bin_idx": bin_idx, "round": round_number, "timed": is_timed}
        return Trial(f"{prefix}{example_id}", f"bin {bin_idx}", 1, facts, commit, arms)

    for place, entry in enumerate(manifest.entries):
        yield trial("", entry.example_id, entry.bin_idx, 0, len(planned(params, place)))
    for number in range(1, params.rounds + 1):
        for entry in manifest.entries:
            arms = len(added(params, 0.5))
            yield trial(f"r{number:02d}-", entry.example_id, entry.bin_idx, number, arms)
    seen: dict[int, int] = {}
    for entry in manifest.entries:
        seen[entry.bin_idx] = seen.get(entry.bin_idx, 0) + 1
        if seen[entry.bin_idx] <= params.timed_per_bin:
            yield trial("t-", entry.example_id, entry.bin_idx, 0, len(timed(params)))
