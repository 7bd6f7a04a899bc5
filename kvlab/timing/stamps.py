"""Raw stamps of one request, and what follows from them.

Only the stamps are stored. Each derived figure is ``None`` where a stamp that it needs is missing.
"""

from dataclasses import dataclass


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
    """

    sent_ns: int
    first_byte_ns: int | None = None
    first_token_ns: int | None = None
    first_content_ns: int | None = None
    last_token_ns: int | None = None
    done_ns: int | None = None
    token_ns: tuple[int, ...] = ()

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token: sent to first generated token, in milliseconds."""
        return _ms(self.sent_ns, self.first_token_ns)

    @property
    def latency_ms(self) -> float | None:
        """End-to-end latency: sent to response complete, in milliseconds."""
        return _ms(self.sent_ns, self.done_ns)
