"""Raw stamps of one request, and what follows from them.

Only the stamps are stored. Each derived figure is ``None`` where a stamp that it needs is missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

#: How the reason begins where this client was not there to see an answer arrive.
STOOD_STILL = "this client stood still"
#: Tokens come one after the other: no engine makes three within this time of each other, a token.
_TOGETHER_NS = 100_000
#: ... and what was streamed takes more than this share of the time to its first token.
_SHARE = 0.01
#: Fewer may arrive together by chance where the machine is busy, and hide little time.
_MIN_TOKENS = 6
#: No model reads a prompt and makes that many tokens sooner; what does is a server without one.
_SOONEST_NS = 20_000_000
#: A share of events that carry more than one token which moves a time per token less than its own noise.
BUNDLED = 0.05


def came_together(sent_ns: int, token_ns: Sequence[int]) -> str | None:
    """Return why the arrivals of an answer's tokens are those of one delivery; ``None``: it was streamed.

    A proxy that holds a stream back until it is complete makes a time to first token of the whole latency.
    """
    if len(token_ns) < _MIN_TOKENS:
        return None
    span, waited = token_ns[-1] - token_ns[0], token_ns[0] - sent_ns
    if waited < _SOONEST_NS:
        return None
    if span > _TOGETHER_NS * (len(token_ns) - 1) or span > _SHARE * waited:
        return None
    return (
        f"{len(token_ns)} events with tokens came together after {waited / 1e6:.0f} ms: something on the way buffers "
        "the stream, or this client could not read it sooner, so the time of its first token is not known"
    )


def fewest_gaps(completion_tokens: int) -> float:
    """Return how many gaps between arrivals there must be at least for a time per token out of them.

    One fewer than between the tokens is let pass: the token that ends an answer has no text of its own. A
    time per token over the arrivals is then too long by that much at most, never too short.
    """
    return completion_tokens - 1 - max(BUNDLED * (completion_tokens - 1), float(completion_tokens > 3))


def tpot_ms(token_ns: Sequence[int], completion_tokens: int | None) -> float | None:
    """Return the mean time between tokens, in milliseconds, from what arrived.

    Args:
        token_ns: The arrivals of the events that carried tokens.
        completion_tokens: How many tokens the server counts.

    Returns:
        ``None`` where the count is unknown, and where tokens came bundled, were hidden or are more than
        were counted: then how many came after the first arrival cannot be told.
    """
    gaps = len(token_ns) - 1
    if completion_tokens is None or gaps < 1:
        return None
    if not fewest_gaps(completion_tokens) <= gaps <= completion_tokens - 1:
        return None
    return (token_ns[-1] - token_ns[0]) / 1e6 / gaps


def _ms(start_ns: int | None, end_ns: int | None) -> float | None:
    return None if start_ns is None or end_ns is None else (end_ns - start_ns) / 1e6


@dataclass(frozen=True)
class Stamps:
    """Moments of one request on `kvlab.timing.clock`, in nanoseconds; ``None``: it never came.

    Attributes:
        sent_ns: Just before the first byte of the request was written to an open connection.
        first_byte_ns: The first byte of the response arrived.
        first_token_ns: The first generated token arrived: content, reasoning or tool call.
            Role-only, empty and usage-only chunks are not tokens.
        first_content_ns: The first token of the visible answer arrived.
        last_token_ns: The last generated token arrived.
        done_ns: The response was complete.
        token_ns: The arrival of every event that carried generated text, in order.
        untimed: Why the reads do not say when the tokens arrived, where they do not: the stream was
            buffered on its way, or this client stood still. Then there is no stamp of any token.
        late: ``first_byte_ns`` and ``done_ns`` say when this client came back: they are late by nobody knows how
            much. They are kept, as the latest moments that are possible; no time of a request is made of them.
    """

    sent_ns: int
    first_byte_ns: int | None = None
    first_token_ns: int | None = None
    first_content_ns: int | None = None
    last_token_ns: int | None = None
    done_ns: int | None = None
    token_ns: tuple[int, ...] = ()
    untimed: str | None = None
    late: bool = False

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token: sent to first generated token, in milliseconds."""
        return _ms(self.sent_ns, self.first_token_ns)

    @property
    def ttft_words(self) -> str:
        """`ttft_ms` for a line of text, or why there is none."""
        if self.ttft_ms is None:
            return f"no time known ({self.untimed or 'no token came'})"
        return f"{self.ttft_ms:.0f} ms"

    @property
    def latency_ms(self) -> float | None:
        """End-to-end latency: sent to response complete, in milliseconds; ``None`` where the end is `late`, too."""
        return None if self.late else _ms(self.sent_ns, self.done_ns)
