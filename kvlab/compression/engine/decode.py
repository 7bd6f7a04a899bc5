"""Greedy decoding of one or several rows at once.

Import this module where torch is wanted: it brings torch and transformers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from kvlab.compression.engine.generation import FinishReason
from kvlab.compression.engine.rows import Row, Rows, attending_rows

#: Rows that are computed together differ from rows that are computed alone by rounding: about 1e-6
#: of the logits in float32. Where the two best logits are closer than this share of the best, the
#: row is decoded again, alone.
NEAR_TIE = 1e-4


@dataclass
class Decoded:
    """What came out of one row.

    Attributes:
        token_ids: The end-of-text token included.
        token_ns: When each was there.
        near_tie: Whether rounding could have decided a token.
    """

    token_ids: list[int] = field(default_factory=list)
    token_ns: list[int] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    near_tie: bool = False


def decode(
    model: Any,  # noqa: ANN401 - a transformers model
    rows: Sequence[Row],
    logits: torch.Tensor,
    position: int,
    max_new_tokens: int,
    eos: frozenset[int],
    now: Callable[[], int],
) -> list[Decoded]:
    """Generate greedily from each row until an end-of-text token or the limit.

    Args:
        model: A causal language model.
        rows: Their caches; they grow.
        logits: Of each row's first new token: (rows, vocabulary).
        position: Where the first new token stands in the uncompressed prompt.
        max_new_tokens: At least 1.
        eos: The end-of-text tokens; the first generated token may be one.
        now: Waits for the device, and reads the clock.
    """
    found = [Decoded() for _ in rows]
    chosen = logits.argmax(dim=-1)
    _take(found, logits, chosen, eos, now)
    with attending_rows(model):
        for step in range(max_new_tokens - 1):
            if all(row.finish_reason for row in found):
                break
            output = model(
                input_ids=chosen.unsqueeze(1),
                past_key_values=Rows(rows),
                position_ids=torch.full((len(rows), 1), position + step, device=model.device),
                use_cache=True,
            )
            logits = output.logits[:, -1].float()
            chosen = logits.argmax(dim=-1)
            _take(found, logits, chosen, eos, now)
    for row in found:
        row.finish_reason = row.finish_reason or "length"
    return found


def _take(
    found: Sequence[Decoded],
    logits: torch.Tensor,
    chosen: torch.Tensor,
    eos: frozenset[int],
    now: Callable[[], int],
) -> None:
    """Add a token to each row that is not at its end."""
    tokens = chosen.tolist()
    at_ns = now()
    ties = [False] * len(found)
    if len(found) > 1:
        best = logits.topk(2, dim=-1).values
        ties = ((best[:, 0] - best[:, 1]) < NEAR_TIE * logits.abs().amax(dim=-1)).tolist()
    for row, token, tie in zip(found, tokens, ties, strict=True):
        if row.finish_reason is not None:
            continue
        row.token_ids.append(token)
        row.token_ns.append(at_ns)
        row.near_tie |= tie
        if token in eos:
            row.finish_reason = "stop"


def read_tail(
    model: Any,  # noqa: ANN401 - a transformers model
    rows: Sequence[Row],
    tail_ids: Sequence[int],
    n_context: int,
) -> torch.Tensor:
    """Let each row read the tail at its true positions. Returns the next token's logits, (rows, vocabulary)."""
    ids = torch.tensor([list(tail_ids)] * len(rows), device=model.device)
    where = torch.arange(n_context, n_context + len(tail_ids), device=model.device)
    with attending_rows(model):
        output = model(
            input_ids=ids,
            past_key_values=Rows(rows),
            position_ids=where.expand(len(rows), -1),
            use_cache=True,
            logits_to_keep=1,
        )
    return output.logits[:, -1].float()
