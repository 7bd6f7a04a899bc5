"""The engine: prefill once, generate under many budgets, or time one of them alone."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kvlab.compression.engine import example
from kvlab.compression.engine.example import Prefilled
from kvlab.compression.engine.generation import Generation, as_failure
from kvlab.compression.engine.states import States
from kvlab.compression.policies.base import Policy, QueryMode
from kvlab.compression.policies.budget import Budget
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import TokenizerCounter
from kvlab.errors import InputError


class KvEngine:
    """A transformers model whose cache is compressed by policies.

    Attributes:
        identity: What it is.
        counter: Counts and makes tokens.
        tokenizer: The model's own.
        model: The transformers model.
        max_model_len: Tokens that fit: context, tail and new ones.
        eos: The end-of-text tokens.
        states: Prefilled prompts kept for another round.
        batches: Whether budgets are decoded together: in full float32 only, where the tokens are the same.
    """

    def __init__(
        self,
        model: Any,  # noqa: ANN401 - a transformers model
        tokenizer: Any,  # noqa: ANN401 - a transformers tokenizer, or None: no texts are made
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
        import torch

        from kvlab.compression.engine.work import Worker

        self.model, self.tokenizer, self.identity = model, tokenizer, identity
        self.counter = TokenizerCounter(tokenizer, "the model's own tokenizer")
        self.max_model_len = identity.max_model_len or int(model.config.max_position_embeddings)
        device = str(model.device.type)
        self.states = States(_quarter_of_free(device) if cache_bytes is None else cache_bytes)
        exact = torch.get_float32_matmul_precision() == "highest"  # no TF32
        self.batches = exact and model.dtype == torch.float32
        ids = model.generation_config.eos_token_id
        self.eos = frozenset([] if ids is None else [ids] if isinstance(ids, int) else ids)
        self._worker = Worker(model, tokenizer, self.eos, device, self.batches)

    def close(self) -> None:
        """Give the memory back."""
        self.states.clear()
        self.model = None
        self._worker = replace(self._worker, model=None)

    def prefill(
        self,
        context_ids: Sequence[int],
        tail_ids: Sequence[int],
        query_mode: QueryMode,
        policies: Sequence[Policy],
        *,
        anew: bool = False,
    ) -> Prefilled:
        """Prefill an example once, and let each policy rank its context; or find it done already.

        In ``agnostic``, examples with the same context share its prefill.

        Args:
            context_ids: Tokens that budgets compress, the beginning of the prompt.
            tail_ids: Tokens that follow: at least one.
            query_mode: Whether the tail is in view (`kvlab.compression.policies.base`).
            policies: Whose budgets will be generated.
            anew: Compute it though it was done already, and keep none of it: to see whether it comes out the same.

        Returns:
            The example; with an error where the model failed (out of memory, say).

        Raises:
            InputError: The example is empty, too long, or not of this model's tokens.
        """
        import torch

        from kvlab.compression.engine import prefill

        given = Prefilled(tuple(context_ids), tuple(tail_ids), query_mode)
        self._check(given, 1)
        tail = given.tail_ids if query_mode == "aware" else ()
        key = query_mode, prefill.context_id(given.context_ids), tail
        state, wanted = self.states.get(key), {policy.id: policy for policy in policies if policy.prunes}
        if not anew and state is not None and wanted.keys() <= state.rankings.keys():
            self.states.hits += 1
            return replace(given, state=state)
        self.states.misses += 1
        try:
            with torch.inference_mode():
                state = prefill.prefill(
                    self.model, given.context_ids, tail, query_mode, list(wanted.values())
                )
        except Exception as error:
            return replace(given, error=as_failure(error))
        if not anew:
            self.states.put(key, state)
        return replace(given, state=state)

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
            One generation per budget, in their order; failed ones have an error.

        Raises:
            InputError: The policy cannot honour a budget, or the new tokens do not fit.
        """
        from kvlab.compression.engine.work import blank, failed

        self._check(prefilled, max_new_tokens)
        for budget in budgets:
            policy.check(budget, prefilled.n_context, prefilled.n_tail_in_view)
        state = prefilled.state
        if state is None:
            return [failed(blank(prefilled, policy, budget), prefilled.error) for budget in budgets]
        pruned = any(not budget.keeps_all(prefilled.n_context) for budget in budgets)
        if pruned and policy.id not in state.rankings:
            raise InputError("policy", policy.id, "was not among the policies of the prefill; name it there")
        made: list[Generation] = []
        for group in self._worker.groups(state, budgets):
            made += self._worker.together(prefilled, state, policy, group, max_new_tokens)
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
        given = Prefilled(tuple(context_ids), tuple(tail_ids), query_mode)
        self._check(given, max_new_tokens)
        policy.check(budget, given.n_context, given.n_tail_in_view)
        return self._worker.alone(given, policy, budget, max_new_tokens)

    def _check(self, given: Prefilled, max_new_tokens: int) -> None:
        example.check(
            given.context_ids,
            given.tail_ids,
            max_new_tokens,
            max_model_len=self.max_model_len,
            vocabulary=int(self.model.config.vocab_size),
        )


def _quarter_of_free(device: str) -> int:
    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0]) // 4
    import psutil

    return int(psutil.virtual_memory().available) // 4
