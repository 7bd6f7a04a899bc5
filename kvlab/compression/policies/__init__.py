"""KV-cache policies: which context entries a smaller cache keeps. One policy per file.

Each is a dataclass whose docstring names its paper, and whose id says all of its parameters. A new
policy is one file and one line here.
"""

from collections.abc import Callable

from kvlab.compression.policies.base import Layer, Policy, QueryMode
from kvlab.compression.policies.budget import Budget
from kvlab.compression.policies.full import Full
from kvlab.compression.policies.knorm import Knorm
from kvlab.compression.policies.random import Random
from kvlab.compression.policies.snapkv import SnapKV
from kvlab.compression.policies.streaming_llm import StreamingLLM
from kvlab.errors import InputError

__all__ = ["NAMES", "Budget", "Layer", "Policy", "QueryMode", "get"]

_PARSERS: dict[str, Callable[[list[str]], Policy]] = {
    kind.name: kind.parse for kind in (Full, SnapKV, StreamingLLM, Knorm, Random)
}
#: The names of all policies.
NAMES: tuple[str, ...] = tuple(_PARSERS)


def get(policy_id: str) -> Policy:
    """Return the policy that an id means.

    Args:
        policy_id: A name, followed by the parameters that differ from their defaults, in any order:
            ``snapkv-w64-k5-avg``, ``streaming_llm-s4``, ``knorm``, ``random-s0``, ``full``. The
            policy's own ``id`` names all of them.

    Raises:
        InputError: There is no such policy, or a parameter of it is wrong.
    """
    name, *parts = policy_id.split("-")
    if name not in _PARSERS:
        raise InputError("policy", policy_id, f"is unknown; choose one of {', '.join(NAMES)}")
    try:
        return _PARSERS[name](parts)
    except ValueError as error:
        raise InputError("policy", policy_id, str(error)) from None
