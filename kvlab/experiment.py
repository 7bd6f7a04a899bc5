"""What an experiment is: a question, a plan, a way to measure, and findings. A frozen record of functions.

A new experiment is a package under ``kvlab/experiments`` whose ``EXPERIMENT`` is such a record, a
notebook and a folder of params; nothing else changes. Whatever an experiment must remember while a run
is open lives in that run's `Session`, never in a module.
"""

import importlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kvlab.demand import Demand
from kvlab.endpoints.counter import Prompt
from kvlab.endpoints.engines import EngineFactory
from kvlab.findings import Findings
from kvlab.params import Params
from kvlab.records import Recorded, Trial
from kvlab.settings import Settings

if TYPE_CHECKING:
    from kvlab.runs.data import RunData
    from kvlab.session import Session

P = TypeVar("P", bound=Params)

#: What measuring a trial gives: its requests, one by one as they are made, and at its end one line about it.
Measuring = Generator[Recorded, None, str]


class UnfinishedError(Exception):
    """Raised by ``measure`` where a trial stored what it could and is not done; the text is its line."""


@dataclass(frozen=True)
class Plan:
    """What a run will do; the same for the same parameters.

    Attributes:
        trials: In the order of measuring.
        costs: What it will take, by name (requests, prompt tokens …); shown before anything is measured.
        contract: Fields of the reproducibility contract that only this experiment knows;
            ``prompt_template_hash`` is one of them.
        demand: What it sends at most; a plan that does not say needs a yes on a remote endpoint.
        samples: Two prompts that differ in nothing but their marker, to find what all prompts share.
        warm_up: The unmeasured trial that comes first; ``None``: the plan needs none.
        material: What the trials are made of (a dataset), for the experiment's own functions.
        tables: Rows by table that the run begins with, in the order of writing; written once, before
            anything is measured, so that a run that goes on needs no source of them.
        files: Files of the run folder by name, for other programs to read; written with the tables.
    """

    trials: tuple[Trial, ...]
    costs: Mapping[str, Any]
    contract: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[Prompt, Prompt] | None = None
    warm_up: Trial | None = None
    material: Any = None
    tables: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    demand: Demand = field(default_factory=Demand)


@dataclass(frozen=True)
class EngineFacts:
    """What is known of the engine when parameters are checked against it.

    Attributes:
        max_model_len: Its longest context in tokens; ``None``: unknown.
        engine: The open engine; ``None``: it is not open yet.
    """

    max_model_len: int | None = None
    engine: Any = None


def _no_state(session: "Session[Any]") -> AbstractContextManager[Any]:
    return nullcontext()


def _no_objection(params: Any, plan: Plan, facts: EngineFacts) -> None:  # noqa: ANN401 - any Params
    return


@dataclass(frozen=True, kw_only=True)
class Experiment(Generic[P]):
    """One question that can be put to a serving system.

    Attributes:
        name: Also its notebook's ending, its folder under ``params/``, and part of a run's name.
        title: One line for people.
        Params: The class of its parameters.
        proves: What its numbers prove, and by what; for ``kvlab doctor``.
        needs: The facts of an endpoint without which the verdict is INVALID.
        open: ``(params, settings)`` → what to measure with, not open yet (`kvlab.endpoints.engines`).
        plan: ``(params, folder)`` → the `Plan`; ``folder`` is that of a run that goes on, else ``None``.
        check: ``(params, plan, facts)``: raises `InputError` for what cannot work. Called before anything
            is written: first with what can be known beforehand, then with the open engine.
        session: ``(session)`` → a context whose value is ``session.state`` while the run is open.
        measure: ``(session, trial)`` → the requests of one trial, from its beginning (`Measuring`).
        findings: ``(data, params)`` → what the stored data say. No clock, no unseeded draw, no writing.
        score: ``(data, anew)`` → rows of the table ``scores`` for the answers that have none yet, or none of
            the present scorer; with ``anew`` for all. ``None``: its answers are not right or wrong.
    """

    name: str
    title: str
    Params: type[P]
    proves: str
    open: Callable[[P, Settings], EngineFactory]
    plan: Callable[[P, Path | None], Plan]
    measure: "Callable[[Session[P], Trial], Measuring]"
    findings: "Callable[[RunData, P], Findings]"
    check: Callable[[P, Plan, EngineFacts], None] = _no_objection
    session: "Callable[[Session[P]], AbstractContextManager[Any]]" = _no_state
    score: "Callable[[RunData, bool], list[dict[str, Any]]] | None" = None
    needs: tuple[str, ...] = ("cached_tokens",)


def later(module: str, name: str = "findings") -> Callable[..., Any]:
    """Return a function that imports ``module`` on its first call and calls its function ``name``.

    Findings need pandas, which takes a second to import; a command that reports nothing need not wait.
    """

    def call(*arguments: Any) -> Any:  # noqa: ANN401 - whatever the function takes and gives
        return getattr(importlib.import_module(module), name)(*arguments)

    return call
