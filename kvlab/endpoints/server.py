"""A server to talk to from Python: prompts of a known length, answers with the evidence for their cache state."""

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from kvlab.endpoints import facts
from kvlab.endpoints.counter import CalibratedCounter, Prompt, shared_start
from kvlab.endpoints.engines import Endpoint
from kvlab.endpoints.openai import Call, OpenAICompat
from kvlab.errors import ServerError
from kvlab.evidence import CacheState
from kvlab.prompts import exact, manual
from kvlab.records import Recorded
from kvlab.settings import Settings

if TYPE_CHECKING:
    from kvlab.report.shown import Shown
    from kvlab.report.timeline import Timeline

_SECTION_TOKENS = 30  # of the document, at least; more sections than needed cost nothing


@dataclass(frozen=True)
class ServerPrompt:
    """A prompt of a planned length, with a marker in its first block that no other prompt has.

    Attributes:
        body: ``{"messages": …}``, as a request carries it.
        tokens: Its length by the server's count, or by an estimate.
        exact: Whether the server itself counted it.
        why: How the length is known.
        salt: Its ``cache_salt``, sent where the server honours it.
    """

    body: Prompt
    tokens: int
    exact: bool
    why: str
    salt: str


@dataclass(frozen=True)
class Answer:
    """One request that was answered.

    Attributes:
        recorded: Everything that is known of it: stamps, usage, evidence, label.
    """

    recorded: Recorded

    @property
    def text(self) -> str:
        """What the model wrote."""
        generation = self.recorded.measurement.generation
        return generation.text if generation is not None else ""

    @property
    def ttft_ms(self) -> float | None:
        """Sent to first token, in ms; ``None``: not measurable in this answer."""
        return self.recorded.measurement.stamps.ttft_ms

    @property
    def ttft_words(self) -> str:
        """`ttft_ms` for a line of text, or why there is none."""
        return self.recorded.measurement.stamps.ttft_words

    @property
    def latency_ms(self) -> float | None:
        """Sent to done, in ms."""
        return self.recorded.measurement.stamps.latency_ms

    @property
    def state(self) -> CacheState:
        """``cold``, ``hit``, ``partial`` or ``unverified``, by what the server said."""
        return self.recorded.state

    @property
    def why(self) -> str:
        """The evidence for `state`, in words."""
        return self.recorded.label.reason

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens that the server read from its cache; ``None``: it does not say."""
        return self.recorded.label.cached_tokens

    @property
    def prompt_tokens(self) -> int | None:
        """The prompt's length as the server counted it; ``None``: it does not say."""
        return self.recorded.evidence.prompt_tokens

    def timeline(self, *others: "Answer") -> "Timeline":
        """Return its raw stamps, and those of other answers, as a figure and a table (`Timeline.table`)."""
        from kvlab.report.timeline import Timeline

        answers = (self, *others)
        states = [str(answer.state) for answer in answers]
        rows = []
        for n, answer in enumerate(answers):
            again = f" {states[: n + 1].count(states[n])}" if states.count(states[n]) > 1 else ""
            rows.append((f"{states[n]}{again}", answer.recorded.measurement.stamps))
        return Timeline(tuple(rows))

    def evidence(self) -> "Shown":
        """Return what `state` rests on: who says what, and what the cache's law predicts."""
        from kvlab.report.shown import Shown  # takes a while

        found, label = self.recorded.evidence, self.recorded.label
        rows = [
            ("the answer's usage: prompt tokens", found.prompt_tokens),
            ("the answer's usage: cached tokens", found.usage_tokens),
            ("the server's counters, after minus before: cached tokens", found.metrics_tokens),
            ("the cache's law: cached tokens of a full hit", label.predicted_tokens),
            ("the label", f"{self.state}: {self.why}"),
        ]
        if found.field_tokens is not None:
            rows.insert(2, ("the answer's KV_METRIC_RESPONSE_FIELD: cached tokens", found.field_tokens))
        return Shown(rows, columns=["evidence", "says"], dtype=object)

    def _repr_html_(self) -> str:
        from kvlab.report.cards import answer  # only where it is shown

        return answer(self.state, self.ttft_words, self.why, self.text)

    def __repr__(self) -> str:
        ttft = "no TTFT" if self.ttft_ms is None else f"TTFT {self.ttft_ms:.1f} ms"
        return f"<Answer {self.state}: {ttft}; {self.why}>"


_NAMES = exact.Names("tokens", "tokens")


class Server:
    """A connected server; a context manager that gives it back.

    Attributes:
        identity: What answers, and what it can prove (``identity.facts``).
    """

    def __init__(self, engine: OpenAICompat) -> None:
        self._engine = engine
        self.identity = engine.identity
        self._isolation_id, self._prompts, self._asked = secrets.token_hex(8), 0, 0
        first, second = (
            manual.build(
                manual.marker("sample", tag),
                "Section 1.",
                api="chat",
                question=manual.QUESTION,
                marker_role="system",
            )
            for tag in "ab"
        )
        self._shared = shared_start(engine.counter, first, second)

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Connect to what the settings name.

        Raises:
            InputError: The address, the key or the model is wrong.
            ServerError: The embedded server did not start.
        """
        return cls(Endpoint(settings).open(lambda _: None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the server back."""
        self._engine.close()

    def facts(self) -> "Shown":
        """Return what the server can prove, and how that is known."""
        return facts.as_table(self.identity.facts)

    def prompt(self, tokens: int) -> ServerPrompt:
        """Return a new prompt of ``tokens`` tokens, chat template included, that no cache knows.

        Raises:
            InputError: So short a prompt cannot be made.
        """
        self._prompts += 1
        mark = manual.marker(self._isolation_id, str(self._prompts))
        text = manual.manual(17, 8 + tokens // _SECTION_TOKENS, mark)
        counter = self._engine.counter

        def build(cut: str) -> Prompt:
            return manual.build(mark, cut, api="chat", question=manual.QUESTION, marker_role="system")

        if isinstance(counter, CalibratedCounter) and not counter.seen:
            other = secrets.token_hex(8)  # the document itself is read once, under a marker of its own
            exact.calibrate(
                lambda cut: manual.build(
                    other, cut, api="chat", question=manual.QUESTION, marker_role="system"
                ),
                text.replace(mark, other),
                [tokens],
                counter,
                _NAMES,
            )
        found = exact.fit(build, text, tokens, counter, _NAMES)
        return ServerPrompt(
            found.prompt, tokens + found.off_tokens, found.exact, f"counted by {counter.source}", mark
        )

    def ask(self, prompt: ServerPrompt, *, max_tokens: int = 16) -> Answer:
        """Ask once, greedily, and label the answer by the server's evidence.

        Raises:
            ServerError: There is no answer; the message is the server's.
        """
        self._asked += 1
        row = self._engine.ask(
            Call(
                request_id=f"kvlab-{self._isolation_id}-{self._asked}",
                arm="ask",
                prompt=prompt.body,
                decoding={"max_tokens": max_tokens, "temperature": 0.0},
                salt=prompt.salt,
                target_tokens=prompt.tokens,
                shared_tokens=self._shared,
            )
        )
        if row.measurement.failure is not None:
            failure = row.measurement.failure
            raise ServerError(f"{failure.error_type}: {failure.message}")
        return Answer(row)
