"""The trials: one an example and round. A round of the refinement asks all examples at one more budget."""

from kvlab.compression.datasets.manifest import Manifest
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.records import Trial


def plan(params: KVBudgetTransitionParams, manifest: Manifest) -> list[Trial]:
    """Return the trials in the order of measuring: all planned budgets, the added ones, the timed passes.

    Which budget a round adds is decided when it begins, out of the answers so far; that there is a
    round, and what it is called, is not.
    """
    found: list[Trial] = []

    def add(prefix: str, example_id: str, bin_idx: int, round_number: int) -> None:
        planned = {
            "example_id": example_id,
            "bin_idx": bin_idx,
            "round": round_number,
            "timed": prefix == "t-",
        }
        found.append(Trial(f"{prefix}{example_id}", len(found), f"bin {bin_idx}", 1, planned))

    for entry in manifest.entries:
        add("", entry.example_id, entry.bin_idx, 0)
    for round_number in range(1, params.rounds + 1):
        for entry in manifest.entries:
            add(f"r{round_number:02d}-", entry.example_id, entry.bin_idx, round_number)
    seen: dict[int, int] = {}
    for entry in manifest.entries:
        seen[entry.bin_idx] = seen.get(entry.bin_idx, 0) + 1
        if seen[entry.bin_idx] <= params.timed_per_bin:
            add("t-", entry.example_id, entry.bin_idx, 0)
    return found
