"""An example on its way: prefilled, scored, ready for any budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvlab.compression.policies.base import QueryMode
from kvlab.errors import InputError
from kvlab.timing.request import Failure

if TYPE_CHECKING:
    from kvlab.compression.engine.prefill import State


@dataclass(frozen=True)
class Prefilled:
    """An example whose prompt has been prefilled and scored.

    Attributes:
        context_ids: What budgets compress.
        tail_ids: What follows it: the question and the answer prefix.
        query_mode: Whether the tail was in view.
        state: The full cache and the policies' rankings; None: `error`.
        error: Why there is none.
    """

    context_ids: tuple[int, ...]
    tail_ids: tuple[int, ...]
    query_mode: QueryMode
    state: "State | None" = None
    error: Failure | None = None

    @property
    def n_context(self) -> int:
        """Tokens of the context."""
        return len(self.context_ids)

    @property
    def n_tail_in_view(self) -> int:
        """Tokens of the tail that the policies saw."""
        return len(self.tail_ids) if self.query_mode == "aware" else 0


def check(
    context_ids: Sequence[int],
    tail_ids: Sequence[int],
    max_new_tokens: int,
    *,
    max_model_len: int,
    vocabulary: int,
) -> None:
    """Refuse an example that the model cannot read.

    Raises:
        InputError: It is empty, too long, or has tokens that the model does not know.
    """
    if not context_ids or not tail_ids:
        name = "context_ids" if not context_ids else "tail_ids"
        raise InputError(name, None, "is empty; it needs at least one token")
    if max_new_tokens < 1:
        raise InputError("max_new_tokens", max_new_tokens, "is too small; generate at least 1")
    total = len(context_ids) + len(tail_ids) + max_new_tokens
    if total > max_model_len:
        fix = f"is too long: with tail and new tokens {total} tokens, and {max_model_len} fit"
        raise InputError("n_context", len(context_ids), fix)
    for name, ids in (("context_ids", context_ids), ("tail_ids", tail_ids)):
        worst = max(ids) if min(ids) >= 0 else min(ids)
        if not 0 <= worst < vocabulary:
            raise InputError(
                name, worst, f"is no token of the model, which has {vocabulary}; use its tokenizer"
            )
