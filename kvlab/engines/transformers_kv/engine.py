"""The engine: prefill once, generate under many budgets, or time one of them alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kvlab.endpoint import Identity
from kvlab.engines.transformers_kv.generation import NO_MEMORY, SHARED, Generation, as_failure
from kvlab.engines.transformers_kv.memory import Peak, watch
from kvlab.engines.transformers_kv.states import States
from kvlab.errors import InputError
from kvlab.policies.base import Policy, QueryMode
from kvlab.policies.budget import Budget
from kvlab.prompts.counter import TokenizerCounter
from kvlab.timing.clock import now_ns
from kvlab.timing.request import Failure

if TYPE_CHECKING:
    import torch

    from kvlab.engines.transformers_kv.decode import Decoded
    from kvlab.engines.transformers_kv.prefill import State
    from kvlab.engines.transformers_kv.rows import Row

#: Rows are decoded together up to this many bytes of cache.
BATCH_BYTES = 2**30


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
    state: "State | None"
    error: Failure | None = None

    @property
    def n_context(self) -> int:
        """Tokens of the context."""
        return len(self.context_ids)

    @property
    def n_tail_in_view(self) -> int:
        """Tokens of the tail that the policies saw."""
        return len(self.tail_ids) if self.query_mode == "aware" else 0


class KvEngine:
    """A transformers model whose cache is compressed by policies.

    Attributes:
        identity: What it is.
        counter: Counts and makes tokens.
        tokenizer: The model's own.
        model: The transformers model.
        max_model_len: Tokens that fit: context, tail and new ones.
        states: Prefilled prompts kept for another round.
        batches: Whether budgets are decoded together: in float32 only, where the tokens are the same.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - a transformers model
        tokenizer: Any,  # noqa: ANN401 - a transformers tokenizer, or None: no text
        identity: Identity,
        *,
        cache_bytes: int | None = None,
    ) -> None:
        """Take a loaded model.

        Args:
            model: A causal language model in evaluation mode.
            tokenizer: Its tokenizer.
            identity: What the manifest says of it.
            cache_bytes: Cap of `states`; None: a quarter of the device's free memory; 0: none is kept.
        """
        self.model, self.tokenizer, self.identity = model, tokenizer, identity
        self.counter = TokenizerCounter(tokenizer, "the model's own tokenizer")
        self.max_model_len = identity.max_model_len or int(model.config.max_position_embeddings)
        self.device = str(model.device.type)
        self.states = States(_quarter_of_free(self.device) if cache_bytes is None else cache_bytes)
        self.batches = str(model.dtype) == "torch.float32"
        ids = model.generation_config.eos_token_id
        self.eos = frozenset([] if ids is None else [ids] if isinstance(ids, int) else ids)

    def close(self) -> None:
        """Give the memory back."""
        self.states.clear()
        self.model = None

    def prefill(
        self,
        context_ids: Sequence[int],
        tail_ids: Sequence[int],
        query_mode: QueryMode,
        policies: Sequence[Policy],
    ) -> Prefilled:
        """Prefill an example once, and let each policy rank its context; or find it done already.

        In ``agnostic``, examples with the same context share its prefill.

        Args:
            context_ids: Tokens that budgets compress, the beginning of the prompt.
            tail_ids: Tokens that follow: at least one.
            query_mode: Whether the tail is in view (`kvlab.policies.base`).
            policies: Whose budgets will be generated.

        Returns:
            The example; with an error where the model failed (out of memory, say).

        Raises:
            InputError: The example is empty, too long, or not of this model's tokens.
        """
        import torch

        from kvlab.engines.transformers_kv import prefill

        context, tail = tuple(context_ids), tuple(tail_ids)
        self._check(context, tail, 1)
        key = (query_mode, prefill.context_id(context), tail if query_mode == "aware" else ())
        held, wanted = self.states.get(key), {policy.id: policy for policy in policies if policy.prunes}
        found = held is not None and wanted.keys() <= held.rankings.keys()
        self.states.count(hit=found)
        if not found:
            try:
                with torch.inference_mode():
                    held = prefill.prefill(self.model, context, tail, query_mode, list(wanted.values()))
            except Exception as error:
                return Prefilled(context, tail, query_mode, None, as_failure(error))
            self.states.put(key, held)
        return Prefilled(context, tail, query_mode, held)

    def generate(
        self,
        prefilled: Prefilled,
        policy: Policy,
        budgets: Sequence[Budget],
        max_new_tokens: int,
    ) -> list[Generation]:
        """Generate greedily under each budget, from one prefill, which is not changed.

        Budgets are decoded together where that gives the tokens that each gives alone.

        Args:
            prefilled: What `prefill` returned.
            policy: One of the policies given there, or one that prunes nothing.
            budgets: In any order; the same one twice is generated twice.
            max_new_tokens: At least 1.

        Returns:
            One generation a budget, in their order; failed ones have an error.

        Raises:
            InputError: The policy cannot honour a budget, or the new tokens do not fit.
        """
        self._check(prefilled.context_ids, prefilled.tail_ids, max_new_tokens)
        for budget in budgets:
            policy.check(budget, prefilled.n_context, prefilled.n_tail_in_view)
        if prefilled.state is None:
            return [self._failed(prefilled, policy, budget, prefilled.error, now_ns()) for budget in budgets]
        needs = [budget for budget in budgets if not budget.keeps_all(prefilled.n_context)]
        if needs and policy.id not in prefilled.state.rankings:
            raise InputError("policy", policy.id, "was not among the policies of the prefill; name it there")
        made: list[Generation] = []
        for group in self._groups(prefilled, budgets):
            made += self._together(prefilled, policy, group, max_new_tokens)
        return made

    def timed(
        self,
        context_ids: Sequence[int],
        tail_ids: Sequence[int],
        query_mode: QueryMode,
        policy: Policy,
        budget: Budget,
        max_new_tokens: int,
    ) -> Generation:
        """Measure one budget alone: prefill, scoring, pruning layer by layer, and decoding.

        Nothing is shared or kept, so its TTFT, time per token and peak memory are this budget's own.
        The first call of a process also pays for warming up; make one that is not measured.

        Raises:
            InputError: As `prefill` and `generate`.
        """
        prefilled = Prefilled(tuple(context_ids), tuple(tail_ids), query_mode, None)
        self._check(prefilled.context_ids, prefilled.tail_ids, max_new_tokens)
        policy.check(budget, prefilled.n_context, prefilled.n_tail_in_view)
        return self._alone(prefilled, policy, budget, max_new_tokens)

    def _alone(self, example: Prefilled, policy: Policy, budget: Budget, max_new_tokens: int) -> Generation:
        import torch

        from kvlab.engines.transformers_kv.prefill import prefill_one

        n_kept = budget.n_kept(example.n_context)
        sent_ns, peak = now_ns(), Peak()
        try:
            with torch.inference_mode(), watch(self.device) as peak:
                sent_ns = self._now()
                ids = example.context_ids, example.tail_ids
                state = prefill_one(self.model, *ids, example.query_mode, policy, n_kept)
                rows = [self._row(state.keys, state.values, example, max_new_tokens)]
                logits = state.logits
                del state  # the row has a copy
                (held,), (made,) = self._decode(example, rows, logits, max_new_tokens)
                done_ns = self._now()
        except Exception as error:
            return self._failed(example, policy, budget, as_failure(error), sent_ns)
        stamps = tuple(made.token_ns)
        return self._generation(
            example, policy, budget, made, held, (sent_ns, done_ns), stamps=stamps, peak=peak
        )

    def _together(
        self, prefilled: Prefilled, policy: Policy, budgets: Sequence[Budget], max_new_tokens: int
    ) -> list[Generation]:
        """Generate budgets in one batch; one by one what the batch cannot, or could have decided by rounding."""
        import torch

        state = prefilled.state
        assert state is not None  # noqa: S101 - `generate` has looked
        sent_ns = now_ns()
        try:
            with torch.inference_mode():
                kept = (state.keep(policy, budget.n_kept(state.n_context)) for budget in budgets)
                rows = [self._row(keys, values, prefilled, max_new_tokens) for keys, values in kept]
                held, made = self._decode(prefilled, rows, state.logits, max_new_tokens)
        except Exception as error:
            if len(budgets) == 1:
                return [self._failed(prefilled, policy, budgets[0], as_failure(error), sent_ns)]
            return [self._together(prefilled, policy, [one], max_new_tokens)[0] for one in budgets]
        when = sent_ns, self._now()
        return [
            self._together(prefilled, policy, [budget], max_new_tokens)[0]
            if row.near_tie
            else self._generation(prefilled, policy, budget, row, what, when, batch_size=len(budgets))
            for budget, row, what in zip(budgets, made, held, strict=True)
        ]

    def _decode(
        self,
        example: Prefilled,
        rows: "list[Row]",
        logits: "torch.Tensor | None",
        max_new_tokens: int,
    ) -> "tuple[list[tuple[list[int], int]], list[Decoded]]":
        """Return what each row held after pruning (entries of each layer, bytes), and what came out."""
        from kvlab.engines.transformers_kv.decode import decode, read_tail

        tail = example.n_tail_in_view
        held = [([length - tail for length in row.lengths], row.nbytes(less=tail)) for row in rows]
        if logits is None:
            logits = read_tail(self.model, rows, example.tail_ids, example.n_context)
        else:
            logits = logits.expand(len(rows), -1)
        position = example.n_context + len(example.tail_ids)
        return held, decode(self.model, rows, logits, position, max_new_tokens, self.eos, self._now)

    def _row(self, keys: Any, values: Any, example: Prefilled, max_new_tokens: int) -> "Row":  # noqa: ANN401
        from kvlab.engines.transformers_kv.rows import Row

        return Row(keys, values, len(example.tail_ids) + max_new_tokens)

    def _groups(self, prefilled: Prefilled, budgets: Sequence[Budget]) -> Iterator[list[Budget]]:
        """Yield the budgets in their order, as many at a time as may be decoded together."""
        state = prefilled.state
        assert state is not None  # noqa: S101 - `generate` has looked
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

    def _generation(
        self,
        example: Prefilled,
        policy: Policy,
        budget: Budget,
        made: "Decoded",
        held: tuple[list[int], int],
        when: tuple[int, int],
        *,
        stamps: tuple[int, ...] = (),
        peak: Peak | None = None,
        batch_size: int = 1,
    ) -> Generation:
        text = (
            "" if self.tokenizer is None else self.tokenizer.decode(made.token_ids, skip_special_tokens=True)
        )
        return Generation(
            policy_id=policy.id,
            budget=budget,
            query_mode=example.query_mode,
            n_context=example.n_context,
            n_tail=len(example.tail_ids),
            token_ids=tuple(made.token_ids),
            text=str(text),
            finish_reason=made.finish_reason,
            n_kept_by_layer=held[0],
            cache_bytes=held[1],
            sent_ns=when[0],
            first_token_ns=stamps[0] if stamps else None,
            token_ns=stamps,
            done_ns=when[1],
            timing_reason=None if stamps else SHARED,
            peak_memory_bytes=peak.bytes if peak else None,
            memory_reason=peak.reason if peak else NO_MEMORY,
            batch_size=batch_size,
        )

    def _failed(
        self, example: Prefilled, policy: Policy, budget: Budget, error: Failure | None, sent_ns: int
    ) -> Generation:
        return Generation(
            policy_id=policy.id,
            budget=budget,
            query_mode=example.query_mode,
            n_context=example.n_context,
            n_tail=len(example.tail_ids),
            token_ids=(),
            text="",
            finish_reason=None,
            n_kept_by_layer=[],
            cache_bytes=None,
            sent_ns=sent_ns,
            first_token_ns=None,
            token_ns=(),
            done_ns=now_ns(),
            timing_reason="it failed",
            memory_reason="it failed",
            error=error,
        )

    def _check(self, context: Sequence[int], tail: Sequence[int], max_new_tokens: int) -> None:
        if not context or not tail:
            name = "context_ids" if not context else "tail_ids"
            raise InputError(name, None, "is empty; it needs at least one token")
        if max_new_tokens < 1:
            raise InputError("max_new_tokens", max_new_tokens, "is too small; generate at least 1")
        total = len(context) + len(tail) + max_new_tokens
        if total > self.max_model_len:
            fix = f"is too long: with tail and new tokens {total} tokens, and {self.max_model_len} fit"
            raise InputError("n_context", len(context), fix)
        if not 0 <= min(*context, *tail) <= max(*context, *tail) < self.model.config.vocab_size:
            raise InputError(
                "context_ids", None, "has tokens that the model does not know; use its tokenizer"
            )

    def _now(self) -> int:
        """Wait for the device, and read the clock."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return now_ns()


def _quarter_of_free(device: str) -> int:
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0]) // 4
    import psutil

    return int(psutil.virtual_memory().available) // 4
