"""The embedded server's own account of its cache, beside what it says to a client: a witness, never a source.

Before each prompt is sent, the KV events that have arrived say how many of its leading tokens the engine holds.
The report turns that into a prediction by the law, and holds the answer's cached tokens against it.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kvlab.experiments.cache_laws.prompts import Maker
from kvlab.laws.events import EventReader, Witness

if TYPE_CHECKING:
    from kvlab.experiments.cache_laws.params import CacheLawsParams
    from kvlab.session import Session

#: An event is published in the step that computed its block; this is how long it may be on its way.
_QUIET_S, _JOIN_S = 0.05, 1.0


@dataclass
class Watch:
    """A reader of events, and the cache as they tell it.

    Attributes:
        why_not: Why it is off; ``None``: it is on.
    """

    reader: EventReader | None = None
    witness: Witness = field(default_factory=Witness)
    why_not: str | None = None

    def held(self, prompt: Mapping[str, Any], salt: str | None) -> int | None:
        """Return how many leading tokens of a prompt the engine holds now; ``None``: it cannot be said."""
        tokens = prompt.get("prompt")
        if self.reader is None or not isinstance(tokens, list):
            return None
        try:
            self.witness.read(self.reader.messages(_QUIET_S))
        except (
            ValueError,
            KeyError,
            TypeError,
            IndexError,
        ) as error:  # it is no event: the account is worth nothing
            self.stop(f"something else than KV events was published: {' '.join(str(error).split())[:120]}")
            return None
        if self.witness.gaps:
            return None
        return self.witness.hit(tokens, salt and ("salt", salt))

    def account(self) -> dict[str, Any]:
        """Return what the events have told so far."""
        seen = self.witness
        return {
            "stored": seen.stored,
            "removed": seen.removed,
            "most_blocks": seen.most_blocks,
            "gaps": len(seen.gaps),
            "why_not": self.why_not,
        }

    def stop(self, why: str) -> None:
        """Read no more."""
        if self.reader is not None:
            self.reader.close()
        self.reader, self.why_not = None, why


@dataclass(frozen=True)
class State:
    """What a run keeps while it is open: how prompts are made, and the witness."""

    maker: Maker
    watch: Watch

    @property
    def exact(self) -> bool:
        """Whether length and shared tokens are exact by construction."""
        return self.maker.exact

    @property
    def how(self) -> str:
        """How prompts are made."""
        return self.maker.how

    @property
    def known_start(self) -> int | None:
        """Leading tokens that all prompts share, where that is known."""
        return self.maker.known_start


@contextmanager
def watching(session: "Session[CacheLawsParams]") -> Iterator[Watch]:
    """Join the embedded server's events, where it publishes any."""
    with ExitStack() as stack:
        watch = _joined(session)
        stack.callback(lambda: watch.stop("the run is closed"))
        yield watch


def _joined(session: "Session[CacheLawsParams]") -> Watch:
    from kvlab.serving import witnessed  # only where it is needed: it looks for an engine

    place = witnessed.endpoint(session.identity.flags) if session.identity.url == "embedded" else None
    if place is None:
        return Watch(why_not="this server publishes no KV events")
    try:
        reader = EventReader(place, witnessed.TOPIC, connect=True)
    except (ImportError, OSError, ValueError) as error:
        return Watch(why_not=f"its KV events cannot be read: {' '.join(str(error).split())[:120]}")
    time.sleep(_JOIN_S)  # what is published before both are joined is lost
    return Watch(reader)
