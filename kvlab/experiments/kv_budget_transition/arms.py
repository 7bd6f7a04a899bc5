"""What is asked of each example: the planned budgets, the controls, what the refinement adds, the timed passes."""

from collections.abc import Iterable
from dataclasses import dataclass

from kvlab.compression.policies import Budget
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams

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


def planned(params: KVBudgetTransitionParams, ordinal: int) -> list[Arm]:
    """Return the arms of an example's first trial, by its place in the dataset.

    Budget 1.0 is repeated on every second example: the repeat has a prefill of its own, which is most of the cost.
    """
    kv = params.kv
    found = [Arm(PLANNED, kv.policy, budget) for budget in kv.budgets]
    if "noise_floor" in kv.controls and ordinal % 2 == 0:
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
