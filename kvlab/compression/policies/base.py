"""What a policy is: a score for each context entry, the highest of which are kept.

A policy sees one attention layer after the prompt has been prefilled, and scores every entry of the
context for every KV head. Scores do not depend on the budget, so one prefill serves all budgets.
Kept keys keep the rotation of their original position.

Two query modes:

- ``agnostic``: the prompt is the context alone. It is prefilled and compressed; whatever follows
  (the question, the answer prefix: the *tail*) arrives afterwards at its true positions.
- ``aware``: the prompt is context and tail together. The tail is in view when the context's entries
  are scored. Only context entries are compressed and counted; the tail's are always kept. The first
  new token comes out of the full prefill, before anything is pruned, as in the SnapKV paper, and so
  is the same at every budget.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from kvlab.compression.policies.budget import Budget
from kvlab.errors import InputError

if TYPE_CHECKING:
    import torch

QueryMode = Literal["agnostic", "aware"]


@dataclass(frozen=True)
class Layer:
    """One attention layer of a prefilled prompt.

    Attributes:
        index: Its number, from 0.
        attention: The attention module of the transformers model.
        hidden_states: What went into it: (1, n_prompt, hidden).
        keys: Rotated keys in its cache: (1, kv_heads, n_prompt, head_dim).
        rotary: Cosines and sines of the prompt's positions: (1, n_prompt, head_dim) each.
        n_context: Leading tokens that are context; the others are the tail in view.
        context_id: The same for the same context tokens, whatever the machine or the order.
    """

    index: int
    attention: Any
    hidden_states: "torch.Tensor"
    keys: "torch.Tensor"
    rotary: "tuple[torch.Tensor, torch.Tensor]"
    n_context: int
    context_id: str

    @property
    def context_keys(self) -> "torch.Tensor":
        """The context's rotated keys: (1, kv_heads, n_context, head_dim)."""
        return self.keys[:, :, : self.n_context]


class Policy(ABC):
    """Scores context entries. Its values are its parameters; equal policies have equal ids."""

    name: ClassVar[str]
    #: Whether it can keep fewer than all entries.
    prunes: ClassVar[bool] = True

    @property
    @abstractmethod
    def id(self) -> str:
        """The name with all parameters; `kvlab.compression.policies.get` reads it."""

    @classmethod
    @abstractmethod
    def parse(cls, parts: list[str]) -> Self:
        """Return the policy that the parts of an id after its name mean.

        Raises:
            ValueError: A part is unknown, or its value is out of range.
        """

    @abstractmethod
    def scores(self, layer: Layer) -> "torch.Tensor":
        """Return the importance of each context entry: (1, kv_heads, n_context), float32."""

    def smallest(self, n_tail: int = 0) -> int:
        """Return the fewest entries that it can keep and still be itself.

        Args:
            n_tail: Tokens of the tail in view; 0 in ``agnostic``.
        """
        del n_tail
        return 1

    def check(self, budget: Budget, n_context: int, n_tail: int = 0) -> None:
        """Refuse a budget that it cannot honour.

        Raises:
            InputError: It cannot; names the policy, the budget and the smallest that works.
        """
        kept, smallest = budget.n_kept(n_context), self.smallest(n_tail)
        if budget.keeps_all(n_context) or (self.prunes and kept >= smallest):
            return
        works = (
            f"keep at least {smallest} entries" if self.prunes and smallest < n_context else "only 1.0 works"
        )
        if not self.prunes:
            works = "it prunes nothing: only 1.0 works"
        fix = f"keeps {kept} of {n_context} context entries, which policy {self.id} cannot honour; {works}"
        raise InputError("budgets", budget.fraction or budget.tokens, fix)


def numbers(parts: list[str], letters: str) -> tuple[dict[str, int], list[str]]:
    """Split the parts of an id into ``{letter: number}`` and the rest; helps `Policy.parse`.

    Raises:
        ValueError: A letter comes twice.
    """
    found: dict[str, int] = {}
    rest = []
    for part in parts:
        if part[:1] and part[0] in letters and part[1:].isdecimal():
            if part[0] in found:
                raise ValueError(f"names {part[0]} twice")
            found[part[0]] = int(part[1:])
        else:
            rest.append(part)
    return found, rest


def refuse_rest(rest: list[str], form: str) -> None:
    """Refuse parts of an id that mean nothing.

    Raises:
        ValueError: There are any.
    """
    if rest:
        raise ValueError(f"has an unknown part {rest[0]!r}; write {form}")
