"""What the cache saved, from the server's own counters; and what the prompts' structure lets one expect.

Token savings = 1 - prompt tokens computed / prompt tokens sent. Both are the server's figures: its
counters' differences over the stretches of a trial, or, where it has none, the sums of its ``usage``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from kvlab.experiments.batch_benchmark.trials import Planned
from kvlab.load.stretch import FINISHED
from kvlab.taxonomy import ErrorType

SENT = "vllm:prompt_tokens_total"
BY_SOURCE = "vllm:prompt_tokens_by_source_total{{source={source}}}"
PREEMPTIONS = "vllm:num_preemptions_total"
NOT_PROVABLE = "not provable on this server"


class Expected(NamedTuple):
    """The least and the most that can be expected, or ``None``; ``roughly`` says why it is rough, or missing."""

    least: float | None
    most: float | None
    roughly: str | None = None


class Saved(NamedTuple):
    """A share of prompt tokens, or ``None``, and where it is from or why there is none."""

    share: float | None
    source: str


def delta(stretches: pd.DataFrame, name: str) -> float | None:
    """Return how much a counter grew over the stretches of a trial; ``None`` where one of them cannot say."""
    total = 0.0
    for before, after in zip(stretches["before"], stretches["after"], strict=True):
        if not isinstance(before, Mapping) or not isinstance(after, Mapping):
            return None
        if name not in before or name not in after or after[name] < before[name]:
            return None  # not counted, or the server was started anew meanwhile
        total += after[name] - before[name]
    return total if len(stretches) else None


def measured(rows: pd.DataFrame, stretches: pd.DataFrame, proven: bool, stuck: str | None = None) -> Saved:
    """Return a trial's savings.

    Args:
        rows: All its requests, failed attempts included.
        stretches: Its stretches of load.
        proven: Whether the endpoint was seen to report cached tokens truthfully.
        stuck: Why its counters do not follow its cache; ``None``: nothing speaks against them.
    """
    sent, computed = delta(stretches, SENT), delta(stretches, BY_SOURCE.format(source="local_compute"))
    served = (rows["status"] == "ok") | (rows["error_type"] == ErrorType.EMPTY_OUTPUT)
    finished, answered = delta(stretches, FINISHED), int(served.sum())
    if stuck is not None:
        why = stuck
    elif sent and computed is not None and finished is not None:
        if finished == answered:
            return Saved(1 - computed / sent, "server counters")
        why = f"the server finished {finished:.0f} requests meanwhile, {answered} of them ours"
    else:
        why = (
            "its counters do not span the trial" if finished is None else "it does not count computed tokens"
        )
    ok = rows[rows["status"] == "ok"]
    if proven and len(ok) and ok["cached_tokens"].notna().all():
        share = float(ok["cached_tokens"].sum()) / float(ok["prompt_tokens"].sum())
        return Saved(share, f"usage of the answers ({why})")
    return Saved(None, f"{NOT_PROVABLE} ({why})")


def predicted(
    rows: pd.DataFrame,
    item: Planned,
    state: Mapping[str, Any],
    block: int | None,
    conversations: int,
    trim: int,
) -> Expected:
    """Return the least and the most that the prompts' structure and the moments of sending let one expect.

    A prefix of p tokens is found in whole blocks, ``floor(p / block) * block``, and the last token of a
    prompt is always computed. A turn of a conversation finds the prompt of the turn before; after a
    trim, only the system prompt. At the most, a prefix is computed once. At the least, every request
    that was sent before the first token of any other with that prefix computes it again: what runs
    side by side can miss side by side. Where the block size is unknown, the prefix counts in full; where its
    tokens cannot be seen, an estimate takes its place: then the prediction is a rough one.

    Args:
        rows: The trial's final, answered requests.
        item: What the trial is.
        state: Of its stretch: ``prefix_tokens``, which all its prompts share, or ``prefix_tokens_estimate``.
        block: Tokens in a block; ``None``: unknown.
        conversations: How many grow side by side.
        trim: Turns between trims.
    """
    if item.strategy == "isolated":
        return Expected(0.0, 0.0)
    exact = state.get("prefix_tokens")
    prefix = state.get("prefix_tokens_estimate") if exact is None else exact
    if prefix is None:
        return Expected(None, None, "the tokens that the prompts share cannot be counted on this server")
    if rows.empty or rows["prompt_tokens"].isna().any():
        return Expected(None, None, "the server does not count the prompts' tokens")
    rough = ["without whole blocks: the block size is unknown"] if block is None else []
    rough += ["from an estimate of the prefix: the server does not show its tokens"] if exact is None else []
    block = block or 1
    table = rows.sort_values("item")
    numbers = table["item"].to_numpy(dtype=np.int64)
    lengths = table["prompt_tokens"].to_numpy(dtype=np.int64)
    sent = table["sent_ns"].to_numpy(dtype=np.int64)
    # An answer without the time of its first token was there when it was done; without that, nothing is known of it.
    known_ns = rows["first_token_ns"].fillna(rows["done_ns"]).min()
    if pd.isna(known_ns):
        return Expected(None, None, "no answer has a time, so which requests started together is unknown")
    reach = np.full(len(numbers), int(prefix))
    early = sent < int(known_ns)
    if item.strategy == "conversation":
        count = min(conversations, item.size)
        before = dict(zip(numbers.tolist(), lengths.tolist(), strict=True))
        for place, number in enumerate(numbers.tolist()):
            if (number // count) % trim:
                reach[place] = before.get(number - count, prefix)
    found = np.minimum((lengths - 1) // block, reach // block) * block
    most, least = found.copy(), np.where(early, 0, found)
    most[int(np.argmin(sent))] = 0
    whole = int(lengths.sum())
    roughly = "; ".join(rough) or None
    return Expected(int(np.minimum(least, most).sum()) / whole, int(most.sum()) / whole, roughly)


def template_share(rows: pd.DataFrame, block: int | None, seen: bool) -> float | None:
    """Return which share of the prompt tokens the chat template's own leading blocks are.

    Args:
        rows: A trial's answered requests.
        block: Tokens in a block; ``None``: unknown, and every token counts.
        seen: Whether the server shows the tokens of a prompt; without, the share is ``None``.
    """
    whole = rows["prompt_tokens"].sum()
    if not seen or rows.empty or not whole:
        return None
    return float((rows["shared_tokens"] // (block or 1) * (block or 1)).sum() / whole)
