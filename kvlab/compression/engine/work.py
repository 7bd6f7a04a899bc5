"""Budgets at work: rows made of a prefilled state, decoded together, or one alone against the clock.

Import this module where torch is wanted: it brings torch and transformers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from kvlab.compression.engine.decode import Decoded, decode, read_tail
from kvlab.compression.engine.example import Prefilled
from kvlab.compression.engine.generation import FAILED, SHARED, UNWATCHED, Generation, as_failure
from kvlab.compression.engine.memory import Peak, watch
from kvlab.compression.engine.prefill import State, prefill_one
from kvlab.compression.engine.rows import Row
from kvlab.compression.policies.base import Policy
from kvlab.compression.policies.budget import Budget
from kvlab.timing.clock import now_ns
from kvlab.timing.request import Failure

#: Rows are decoded together up to this many bytes of cache.
BATCH_BYTES = 2**30


@dataclass(frozen=True)
class Held:
    """What a row held after pruning, the tail aside, read from its tensors."""

    n_kept_by_layer: list[int]
    nbytes: int


@dataclass(frozen=True)
class Worker:
    """A model that generates under budgets. Nothing that it is given is changed.

    Attributes:
        model: A causal language model.
        tokenizer: Its tokenizer; None: no texts are made.
        eos: The end-of-text tokens.
        device: ``cpu`` or ``cuda``.
        batches: Whether budgets may be decoded together.
    """

    model: Any
    tokenizer: Any
    eos: frozenset[int]
    device: str
    batches: bool

    def groups(self, state: State, budgets: Sequence[Budget]) -> Iterator[list[Budget]]:
        """Yield the budgets in their order, as many at a time as may be decoded together."""
        whole = sum(part.numel() * part.element_size() for part in (*state.keys, *state.values))
        group: list[Budget] = []
        used = 0.0
        for budget in budgets:
            size = whole * budget.n_kept(state.n_context) / state.n_context
            if group and (not self.batches or used + size > BATCH_BYTES):
                yield group
                group, used = [], 0.0
            group.append(budget)
            used += size
        if group:
            yield group

    def together(
        self, example: Prefilled, state: State, policy: Policy, budgets: Sequence[Budget], max_new_tokens: int
    ) -> list[Generation]:
        """Generate budgets in one batch; one by one where the batch does not fit.

        Alone, too, is generated again what rounding could have decided (`decode.NEAR_TIE`).
        """
        begun = [blank(example, policy, budget) for budget in budgets]

        def alone(budget: Budget) -> Generation:
            return self.together(example, state, policy, [budget], max_new_tokens)[0]

        found = self._attempt(example, state, policy, budgets, max_new_tokens)
        if isinstance(found, Failure):
            return [failed(begun[0], found)] if len(budgets) == 1 else [alone(one) for one in budgets]
        held, made = found
        done_ns = self.now()
        together = [
            replace(self._answer(*parts), done_ns=done_ns, timing_reason=SHARED, batch_size=len(budgets))
            for parts in zip(begun, made, held, strict=True)
        ]
        return [alone(one.budget) if row.near_tie else one for one, row in zip(together, made, strict=True)]

    def _attempt(
        self, example: Prefilled, state: State, policy: Policy, budgets: Sequence[Budget], max_new_tokens: int
    ) -> tuple[list[Held], list[Decoded]] | Failure:
        """Return what the rows held and gave; or why not, when all memory of the attempt is free again."""
        try:
            with torch.inference_mode():
                kept = (state.keep(policy, budget.n_kept(state.n_context)) for budget in budgets)
                rows = [self._row(*pair, example, max_new_tokens) for pair in kept]
                return self._decode(example, rows, state.logits, max_new_tokens)
        except Exception as error:
            return as_failure(error)

    def alone(self, example: Prefilled, policy: Policy, budget: Budget, max_new_tokens: int) -> Generation:
        """Generate one budget from its prompt on, with its own times and its own peak of memory."""
        begun = blank(example, policy, budget)
        n_kept = budget.n_kept(example.n_context)
        try:
            with torch.inference_mode(), watch(self.device) as peak:
                begun = replace(begun, sent_ns=self.now())
                ids = example.context_ids, example.tail_ids
                state = prefill_one(self.model, *ids, example.query_mode, policy, n_kept)
                rows = [self._row(state.keys, state.values, example, max_new_tokens)]
                logits = state.logits
                del state  # the row has a copy
                (held,), (made,) = self._decode(example, rows, logits, max_new_tokens)
                done_ns = self.now()
        except Exception as error:
            return failed(begun, as_failure(error))
        return replace(
            self._answer(begun, made, held, peak),
            first_token_ns=made.token_ns[0],
            token_ns=tuple(made.token_ns),
            done_ns=done_ns,
        )

    def now(self) -> int:
        """Wait for the device, and read the clock."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return now_ns()

    def _row(
        self,
        keys: Sequence[torch.Tensor],
        values: Sequence[torch.Tensor],
        example: Prefilled,
        max_new_tokens: int,
    ) -> Row:
        return Row(keys, values, len(example.tail_ids) + max_new_tokens)

    def _decode(
        self, example: Prefilled, rows: Sequence[Row], logits: torch.Tensor | None, max_new_tokens: int
    ) -> tuple[list[Held], list[Decoded]]:
        tail = example.n_tail_in_view
        held = [Held([n - tail for n in row.lengths], row.nbytes(less=tail)) for row in rows]
        if logits is None:
            logits = read_tail(self.model, rows, example.tail_ids, example.n_context)
        else:
            logits = logits.expand(len(rows), -1)
        position = example.n_context + len(example.tail_ids)
        return held, decode(self.model, rows, logits, position, max_new_tokens, self.eos, self.now)

    def _answer(self, begun: Generation, made: Decoded, held: Held, peak: Peak | None = None) -> Generation:
        text = (
            "" if self.tokenizer is None else self.tokenizer.decode(made.token_ids, skip_special_tokens=True)
        )
        return replace(
            begun,
            token_ids=tuple(made.token_ids),
            text=str(text),
            finish_reason=made.finish_reason,
            n_kept_by_layer=held.n_kept_by_layer,
            cache_bytes=held.nbytes,
            peak_memory_bytes=peak.bytes if peak else None,
            memory_reason=peak.reason if peak else UNWATCHED,
        )


def blank(example: Prefilled, policy: Policy, budget: Budget) -> Generation:
    """Return a generation that begins now."""
    return Generation(
        policy_id=policy.id,
        budget=budget,
        query_mode=example.query_mode,
        n_context=example.n_context,
        n_tail=len(example.tail_ids),
        sent_ns=now_ns(),
    )


def failed(begun: Generation, error: Failure | None) -> Generation:
    """Return a generation that came to nothing."""
    return replace(begun, done_ns=now_ns(), timing_reason=FAILED, memory_reason=FAILED, error=error)
