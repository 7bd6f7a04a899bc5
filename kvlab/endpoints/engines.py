"""Engines: what turns a prompt into a generation, with the evidence for its cache state."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import Counter
from kvlab.settings import Settings

#: Given the longest context in tokens, or ``None`` where that is unknown; raises for what does not fit.
LengthCheck = Callable[[int | None], None]


class Engine(Protocol):
    """What a session needs of every engine; how it is asked is between it and the experiment."""

    identity: Identity
    counter: Counter

    def close(self) -> None:
        """Give back what it holds."""


class EngineFactory(Protocol):
    """An engine that is chosen and not open yet."""

    @property
    def in_process(self) -> str | None:
        """The module that must be installed to load the engine into this process; ``None``: it is an endpoint."""

    def open(self, check: LengthCheck) -> Any:  # noqa: ANN401 - an `Engine` of a kind that the experiment knows
        """Open it for measuring, and find out what it can prove."""

    def keep_running(self, check: LengthCheck) -> AbstractContextManager[None]:
        """Refuse what cannot work, and keep up what a notebook in another process will use."""


@dataclass(frozen=True)
class Endpoint:
    """The configured OpenAI-compatible endpoint, or the embedded server; one request at a time.

    Attributes:
        settings: Which.
        embedded_flags: Returns more flags of vLLM for the embedded server; asked only where that is what is opened.
    """

    settings: Settings
    embedded_flags: Callable[[], tuple[str, ...]] = tuple
    in_process: ClassVar[str | None] = None

    def open(self, check: LengthCheck) -> Any:  # noqa: ANN401 - an OpenAICompat
        """Connect, and find out what the server can prove."""
        from kvlab.endpoints import openai  # only where something is measured

        return openai.open_engine(self.settings, check, self._flags())

    def keep_running(self, check: LengthCheck) -> AbstractContextManager[None]:
        """Keep the server up for a notebook in another process."""
        from kvlab.endpoints import openai

        return openai.keep_running(self.settings, check, self._flags())

    def _flags(self) -> tuple[str, ...]:
        return () if self.settings.is_remote else self.embedded_flags()


@dataclass(frozen=True)
class OfflineVLLM:
    """vLLM's offline ``LLM`` in this process."""

    settings: Settings
    in_process: ClassVar[str | None] = "vllm"

    def open(self, check: LengthCheck) -> Any:  # noqa: ANN401 - an OfflineEngine
        """Load the model."""
        from kvlab.endpoints import offline  # only where something is measured

        return offline.open_engine(self.settings, check)

    def keep_running(self, check: LengthCheck) -> AbstractContextManager[None]:
        """Refuse what cannot work; the notebook loads its own."""
        from kvlab.endpoints import offline

        return offline.keep_running(self.settings, check)
