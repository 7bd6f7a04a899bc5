"""The same cases through kvlab's engine, held against what kvpress gave."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks.kvpress import tiny
from benchmarks.kvpress.cases import CASES, N_CONTEXT, N_TAIL, NEW_TOKENS, Case
from kvlab.compression import policies
from kvlab.compression.engine import KvEngine
from kvlab.compression.policies import Budget
from kvlab.endpoints.connect import Identity


class Agreement(NamedTuple):
    """Whether a case gave the same; ``tokens`` is None where kvpress has none to compare."""

    case: Case
    kept: bool
    tokens: bool | None


def engine(kind: str, **options: Any) -> KvEngine:
    """Return kvlab's engine around a tiny model."""
    return around(tiny.model(kind, **options))


def around(model: Any) -> KvEngine:
    """Return kvlab's engine around a model without a tokenizer."""
    return KvEngine(model, None, Identity(url="in-process", model=model.config.model_type))


def compare(reference: Mapping[str, Any], kinds: tuple[str, ...] | None = None) -> Iterator[Agreement]:
    """Yield the agreement of each case with the reference.

    Args:
        reference: What `benchmarks.kvpress.reference` wrote: ``{case key: {kept, tokens}}``.
        kinds: Only these architectures.
    """
    engines: dict[str, KvEngine] = {}
    for case in CASES:
        if kinds is None or case.kind in kinds:
            engines.setdefault(case.kind, engine(case.kind))
            yield _compare(case, reference[case.key], engines[case.kind])


def _compare(case: Case, theirs: Mapping[str, Any], ours: KvEngine) -> Agreement:
    policy = policies.get(case.policy_id)
    context, tail = tiny.prompt(N_CONTEXT, N_TAIL)
    aware = case.query_mode == "aware"
    kept = [[[at for at in head if at < N_CONTEXT] for head in layer] for layer in theirs["kept"]]
    # An equal ratio in agnostic; in aware, kvpress counts the tail, and we do not: an equal number.
    budget = Budget(tokens=len(kept[0][0])) if aware else Budget.of(round(1 - case.ratio, 10))
    done = ours.prefill(context, tail, case.query_mode, [policy])  # type: ignore[arg-type]
    (made,) = ours.generate(done, policy, [budget], NEW_TOKENS)
    if done.state is None or made.error is not None:
        raise SystemExit(f"{case.key}: {done.error or made.error}")
    n_kept = made.n_kept_by_layer[0]
    own = [sorted_heads(layer[0, :, :n_kept]) for layer in done.state.rankings[policy.id]]
    tokens = theirs["tokens"]
    return Agreement(case, own == kept, None if tokens is None else list(made.token_ids) == until_eos(tokens))


def sorted_heads(positions: Any) -> list[list[int]]:
    """Return each head's positions in order."""
    return [sorted(head) for head in positions.tolist()]


def until_eos(tokens: list[int], eos: int = 2) -> list[int]:
    """Cut after the first end-of-text token: kvpress does not look at its first one."""
    return tokens[: tokens.index(eos) + 1] if eos in tokens else tokens
