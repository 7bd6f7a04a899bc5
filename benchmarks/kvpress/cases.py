"""What is compared with kvpress: policies, prompts, budgets. Imported in both environments."""

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

N_CONTEXT, N_TAIL, NEW_TOKENS = 96, 6, 12
WINDOW = 8
KINDS = ("llama", "qwen3", "mistral")
RATIOS = (0.3, 0.5, 0.75)
#: kvlab's policy, and kvpress' class with its parameters.
PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "snapkv-w8-k5-avg": ("SnapKVPress", {"window_size": WINDOW, "kernel_size": 5}),
    "snapkv-w8-k3-avg": ("SnapKVPress", {"window_size": WINDOW, "kernel_size": 3}),
    "knorm": ("KnormPress", {}),
    "streaming_llm-s4": ("StreamingLLMPress", {"n_sink": 4}),
    "random-s3-shared": ("RandomPress", {"seed": 3}),
}


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        kind: Of `benchmarks.kvpress.tiny.KINDS`.
        policy_id: Of `PAIRS`.
        query_mode: kvpress has no ``aware``; given the whole prompt as its context, with a window that
            holds the tail, its SnapKV keeps the same context entries.
        ratio: kvpress' ``compression_ratio``, of what it is given.
    """

    kind: str
    policy_id: str
    query_mode: str
    ratio: float

    @property
    def key(self) -> str:
        return " ".join(str(value) for value in asdict(self).values())


CASES = [Case(kind, policy, "agnostic", ratio) for kind, policy, ratio in product(KINDS, PAIRS, RATIOS)] + [
    Case(kind, "snapkv-w8-k5-avg", "aware", ratio) for kind, ratio in product(KINDS, RATIOS)
]
