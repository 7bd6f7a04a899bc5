"""What the cache saved, from the server's own counters; and what the prompts' structure lets one expect.

Token savings = 1 - prompt tokens computed / prompt tokens sent. Both are the server's figures: its
counters' differences over the stretches of a trial, or, where it has none, the sums of its ``usage``.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from kvlab.experiments.batch_benchmark.plan import Planned
from kvlab.experiments.batch_benchmark.stretch import FINISHED

SENT = "vllm:prompt_tokens_total"
BY_SOURCE = "vllm:prompt_tokens_by_source_total{{source={source}}}"
PREEMPTIONS = "vllm:num_preemptions_total"
NOT_PROVABLE = "not provable on this server"


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


def measured(rows: pd.DataFrame, stretches: pd.DataFrame, proven: bool) -> Saved:
    """Return a trial's savings.

    Args:
        rows: All its requests, failed attempts included.
        stretches: Its stretches of load.
        proven: Whether the endpoint was seen to report cached tokens truthfully.
    """
    sent, computed = delta(stretches, SENT), delta(stretches, BY_SOURCE.format(source="local_compute"))
    finished, answered = delta(stretches, FINISHED), int((rows["status"] == "ok").sum())
    if sent and computed is not None and finished is not None:
        if finished == answered:
            return Saved(1 - computed / sent, "server counters")
        why = f"the server finished {finished:.0f} requests meanwhile, {answered} of them ours"
    else:
        why = "its counters do not span the trial" if finished is None else "it does not count computed tokens"
    ok = rows[rows["status"] == "ok"]
    if proven and len(ok) and ok["cached_tokens"].notna().all():
        share = float(ok["cached_tokens"].sum()) / float(ok["prompt_tokens"].sum())
        return Saved(share, f"usage of the answers ({why})")
    return Saved(None, f"{NOT_PROVABLE} ({why})")


def predicted(
    rows: pd.DataFrame, item: Planned, state: Mapping[str, Any], block: int | None, conversations: int, trim: int
) -> float | None:
    """Return the savings that the prompts' structure allows: every prefix computed once and then found.

    A prefix of p tokens is found in whole blocks, ``floor(p / block) * block``, and the last token of a
    prompt is always computed. A turn of a conversation finds the prompt of the turn before; after a
    trim, only the system prompt.

    Args:
        rows: The trial's final, answered requests.
        item: What the trial is.
        state: Of its stretch: ``prefix_tokens``, which all its prompts share.
        block: Tokens in a block.
        conversations: How many grow side by side.
        trim: Turns between trims.
    """
    prefix = state.get("prefix_tokens")
    if item.strategy == "isolated":
        return 0.0
    if block is None or prefix is None or rows.empty or rows["prompt_tokens"].isna().any():
        return None
    lengths = rows.set_index("item")["prompt_tokens"].astype(int).sort_index()
    count = min(conversations, item.size)
    found = 0
    for number, length in lengths.items():
        reach = prefix if number != lengths.index[0] else 0
        turn = int(number) // count  # type: ignore[call-overload]
        if item.strategy == "conversation" and turn and turn % trim:
            reach = int(lengths.get(int(number) - count, reach))  # type: ignore[call-overload]
        found += min((length - 1) // block, reach // block) * block
    return found / int(lengths.sum())
