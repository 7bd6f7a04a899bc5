"""What an experiment is. A new one is a module here with an ``EXPERIMENT``, a notebook and a params folder."""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from kvlab.endpoints import engines
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import Prompt
from kvlab.findings import Summary
from kvlab.params import Params
from kvlab.records import Recorded, Trial
from kvlab.settings import Settings
from kvlab.store.database import Database

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from kvlab.session import Lab

P = TypeVar("P", bound=Params)


class Streamed(NamedTuple):
    """How far a trial of many requests came: whether it is done, and one line about it."""

    done: bool
    line: str


class Experiment(ABC, Generic[P]):
    """One question that can be put to a serving system.

    Attributes:
        name: Also its notebook's ending, its folder under ``params/``, and part of a run's name.
        title: One line for people.
        engine: Which module of `kvlab.endpoints.engines` it measures with.
        needs: The facts of an endpoint without which the verdict is INVALID.
        proof: What its numbers prove, and by what; for ``kvlab doctor``.
        streams: Whether a trial is many requests that are stored as they come (`stream`), and resumed
            in its middle, rather than a few that count together (`attempt`).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    engine: ClassVar[str] = "openai_compat"
    needs: ClassVar[tuple[str, ...]] = ("cached_tokens",)
    proof: ClassVar[str] = "cache states, by the cached tokens that the server reports"
    streams: ClassVar[bool] = False
    Params: type[P]

    def open_engine(self, params: P, settings: Settings, check: engines.Check) -> Any:  # noqa: ANN401 - its own engine
        """Open what this experiment measures with (`kvlab.endpoints.engines`)."""
        return engines.module(self.engine).open_engine(settings, check)

    def hold(self, params: P, settings: Settings, check: engines.Check) -> AbstractContextManager[None]:
        """Keep up what a notebook in another process will measure with."""
        return engines.module(self.engine).hold(settings, check)

    def contract(self, params: P) -> dict[str, Any]:
        """Return fields of the reproducibility contract that only this experiment knows."""
        return {}

    def recall(self, folder: Path, params: P) -> None:
        """Be told which run goes on, before anything else: what it was made of may be gone but for its database."""
        return

    @abstractmethod
    def template_hash(self) -> str:
        """Return a hash of what makes its prompts."""

    @abstractmethod
    def samples(self, params: P) -> tuple[Prompt, Prompt]:
        """Return two prompts that differ in nothing but their marker, to see what all prompts share."""

    @abstractmethod
    def check(self, params: P, max_model_len: int | None) -> None:
        """Refuse, before anything is written, what cannot work on this model.

        Raises:
            InputError: Naming the parameter.
        """

    def check_engine(self, params: P, engine: Any) -> None:  # noqa: ANN401 - its own engine
        """Refuse, before anything is written, what only the open engine can know to be wrong.

        Raises:
            InputError: Naming the parameter.
        """
        return

    @abstractmethod
    def plan(self, params: P) -> list[Trial]:
        """Return the trials in the order of measuring: the same for the same parameters."""

    def warm_up(self, lab: "Lab[P]", attempt: int) -> list[Recorded]:
        """Make the unmeasured requests that come first (``attempt`` counts from 1); none, where the plan has its own."""
        return []

    def attempt(self, lab: "Lab[P]", trial: Trial, attempt: int) -> list[Recorded]:
        """Measure a trial once, from its beginning; stop at the first failure."""
        raise NotImplementedError(f"{self.name} has no trials of a few requests")

    def stream(self, lab: "Lab[P]", trial: Trial, attempt: int) -> Streamed:
        """Measure what is left of a trial of many requests, and store it as it comes."""
        raise NotImplementedError(f"{self.name} has no trials of many requests")

    def close(self, lab: "Lab[P]") -> None:
        """End what it has opened for this lab beside the engine; nothing, as a rule."""
        return

    def streams_with(self, params: P) -> bool:
        """Whether a trial is streamed (`streams`) under these parameters."""
        return self.streams

    def is_result(self, lab: "Lab[P]", trial: Trial, row: Recorded) -> bool:
        """Whether a failed request is what its trial set out to find: then the trial is done."""
        return False

    def line(self, trial: Trial, rows: Sequence[Recorded]) -> str:
        """Return one line about a trial that is done."""
        return f"{len(rows)} requests"

    def derive(self, database: Database, params: P) -> None:
        """Bring the tables that follow from the answers up to date; none, where there are no such tables."""
        return

    def load(self, sql: sqlite3.Connection, requests: "pd.DataFrame", params: P) -> "pd.DataFrame":
        """Return the frame that `summarize` and `draw` are given: every measured request, as a rule.

        What else the database holds for this experiment goes into its ``attrs``.
        """
        return requests

    @abstractmethod
    def summarize(self, frame: "pd.DataFrame", params: P, profile: str, identity: Identity | None) -> Summary:
        """Return what ``frame`` (from `load`) says. No clock, no unseeded draw."""

    @abstractmethod
    def draw(self, frame: "pd.DataFrame", summary: Summary, params: P) -> "dict[str, Figure]":
        """Return the figures of ``summary.figures``, by name."""

    def exports(
        self,
        frame: "pd.DataFrame",
        params: P,
        stored: Mapping[str, Any],
        identity: Identity | None,
    ) -> dict[str, str | bytes]:
        """Return further files of the run folder, by name: formats that others read.

        Args:
            frame: What `load` returned.
            params: The parameters.
            stored: What the database says of the run (`kvlab.runs.folder.stored_experiment`): its start, too,
                so that a file that carries a date is the same each time.
            identity: What answered.
        """
        return {}

    def facts(self, params: P) -> dict[str, Any]:
        """Return what running it will cost, printed before anything is measured."""
        return {"trials": len(self.plan(params))}
