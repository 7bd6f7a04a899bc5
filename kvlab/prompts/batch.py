"""Prompts of a batch: one system prompt for all requests, and a short question of each request's own.

Who shares the system prompt is decided by its first words, the marker: one marker for all requests of
a trial lets the server reuse the prefix; a marker for each request breaks it and changes nothing else.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from kvlab.prompts import manual

Message = dict[str, str]
Kind = Literal["shared", "isolated", "conversation"]

_HEAD = "{marker} is the batch of this request. Answer from the handbook, in a few words.\n{text}"
_SYMPTOMS = (
    "hums at half load", "leaks at the flange", "does not start after a pause", "runs hot in the afternoon",
    "loses pressure overnight", "trips the breaker", "vibrates above nominal speed", "reports no reading",
)  # fmt: skip


def handbook(seed: int, sections: int) -> str:
    """Return the text that system prompts are cut from."""
    return manual.manual(seed, sections, "handbook")


def system_message(marker: str, text: str) -> Message:
    """Return the system message: the marker stands in the first block of the cache."""
    return {"role": "system", "content": _HEAD.format(marker=marker, text=text)}


def question(seed: int, item: int) -> Message:
    """Return the user message of one request, the same for the same ``seed`` and ``item``."""
    draw = random.Random(f"{seed}/{item}")  # noqa: S311 - prose, not cryptography
    unit = draw.randrange(100, 1000)
    text = f"Ticket {item:06d}: unit {unit} {draw.choice(_SYMPTOMS)}. Which part comes first?"
    return {"role": "user", "content": text}


def template_hash() -> str:
    """Return the hash that names these prompts in a manifest."""
    return manual.digest(system_message("MARK", handbook(0, 3)), question(0, 0))


@dataclass(frozen=True)
class Workload:
    """What the requests of one trial ask.

    Attributes:
        kind: ``shared``: one prefix for all; ``isolated``: none shared; ``conversation``: each request
            goes on with a conversation that grows, answers included.
        marker: The trial's; an isolated request's own is made from it.
        text: Of the system prompt, after the marker.
        seed: Of the questions.
        conversations: How many grow side by side; request i belongs to conversation ``i % conversations``.
        trim_interval: After so many exchanges a conversation is trimmed…
        keep_messages: … to its last so many messages, the system message apart; one fewer, if it would begin
            with an answer.
    """

    kind: Kind
    marker: str
    text: str
    seed: int = 0
    conversations: int = 1
    trim_interval: int = 50
    keep_messages: int = 40

    def marker_of(self, item: int) -> str:
        """Return the marker of a request."""
        return manual.marker(self.marker, str(item)) if self.kind == "isolated" else self.marker

    def system(self, item: int) -> Message:
        """Return the system message of a request."""
        return system_message(self.marker_of(item), self.text)

    def question(self, item: int) -> Message:
        """Return the user message of a request."""
        return question(self.seed, item)

    def stored(self, item: int, messages: list[Message], base_sha256: str) -> dict[str, Any]:
        """Return a prompt as the database holds it: the text that all share is there once.

        Args:
            item: Which request.
            messages: All but the system message.
            base_sha256: Name of the row with the trial's own system message.
        """
        body: dict[str, Any] = {"base_sha256": base_sha256, "messages": messages}
        return {**body, "marker": self.marker_of(item)} if self.kind == "isolated" else body


def restore(body: Mapping[str, Any], look_up: Callable[[str], Mapping[str, Any]]) -> list[Message]:
    """Return the messages of a stored prompt (`Workload.stored`), as they were sent.

    Args:
        body: What the database holds.
        look_up: Gives the body of another prompt by its name.
    """
    base = look_up(body["base_sha256"])
    marker = body.get("marker", base["marker"])
    return [system_message(marker, base["text"]), *body["messages"]]


@dataclass
class Conversation:
    """One conversation as it grows.

    Attributes:
        history: Its messages so far, the system message apart.
        turn: How many exchanges have been asked for.
    """

    workload: Workload
    history: list[Message] = field(default_factory=list)
    turn: int = 0

    def ask(self, item: int) -> list[Message]:
        """Return the messages of the next exchange, after trimming if it is due; then `answer` it."""
        if self.turn and self.turn % self.workload.trim_interval == 0:
            keep = self.workload.keep_messages
            self.history = self.history[-keep:] if keep else []
            if self.history and self.history[0]["role"] != "user":
                del self.history[0]  # an odd number: strict chat templates refuse to begin with an answer
        return [*self.history, self.workload.question(item)]

    def answer(self, item: int, text: str | None) -> None:
        """Take the answer; ``None``: it failed for good, and the conversation goes on without it."""
        self.turn += 1
        if text is not None:
            self.history += [self.workload.question(item), {"role": "assistant", "content": text}]
