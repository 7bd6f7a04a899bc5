"""What a run will take: requests and tokens by its plan, time by what was measured before, money by the prices given."""

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kvlab import experiments, paths, spending
from kvlab.demand import Demand
from kvlab.errors import KvlabError
from kvlab.experiment import EngineFacts, Experiment, Plan
from kvlab.params import Resolved
from kvlab.runs.files import read_json
from kvlab.runs.folder import list_folders, stored_experiment
from kvlab.settings import Settings
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.connect import reading
from kvlab.store.database import Database

#: So many earlier runs are looked at, the newest first.
_MOST_RUNS = 5
_MOST_LOOKED_AT = 200
#: Of each session, from its first request to its last answer.
_TAKEN = """SELECT coalesce(sum(span), 0), coalesce(sum(n), 0), coalesce(sum(tokens), 0) FROM (
    SELECT max(coalesce(t.done_ns, t.sent_ns)) - min(t.sent_ns) AS span, count(*) AS n,
           sum(coalesce(p.prompt_tokens, 0) + coalesce(p.completion_tokens, 0)) AS tokens
    FROM requests r JOIN telemetry t USING (request_id) LEFT JOIN responses p USING (request_id)
    GROUP BY r.session_id)"""


@dataclass(frozen=True)
class Taken:
    """What an earlier run took.

    Attributes:
        seconds: From the first request to the last answer of each session, added up.
        requests: Sent.
        tokens: Prompt and completion tokens that were answered with a count.
    """

    seconds: float
    requests: int
    tokens: int


@dataclass(frozen=True)
class Time:
    """How long a run will take: a range in seconds with the way it was got, or why it is unknown."""

    low_s: float | None
    high_s: float | None
    how: str

    @property
    def words(self) -> str:
        """For people."""
        if self.low_s is None or self.high_s is None:
            return f"unknown, because {self.how}"
        low, high = _span(self.low_s), _span(self.high_s)
        return f"{low if low == high else f'{low} to {high}'} ({self.how})"


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def lines(experiment: Experiment[Any], resolved: Resolved, settings: Settings, outputs: Path) -> list[str]:
    """Return what a run of these parameters will take, line by line. Nothing is sent.

    Raises:
        InputError: The plan cannot be made, or cannot be measured under these parameters.
    """
    params = resolved.params
    plan: Plan = experiment.plan(params, None)
    experiment.check(params, plan, EngineFacts())
    where = _where(experiment, params, settings)
    said = [f"{experiment.name} on {where}", f"trials: {len(plan.trials):,}"]
    said += [
        f"{name}: {value:,}" if isinstance(value, int) else f"{name}: {value}"
        for name, value in plan.costs.items()
    ]
    said.append(f"at most, probes and repeated attempts apart: {spending.words(plan.demand)}")
    said.append(
        f"time: {time(experiment.name, plan.demand, _place(experiment, params, settings), outputs).words}"
    )
    cost = spending.money(plan.demand, params, settings)
    said.append(
        f"money: {_no_price(params, plan.demand, settings) if cost is None else f'at most {cost:,.2f}, nothing taken off for cached tokens'}"
    )
    if found := spending.objection(experiment, params, plan.demand, settings):
        said.append(f"needs --yes: {found}")
    return said


def _where(experiment: Experiment[Any], params: Any, settings: Settings) -> str:  # noqa: ANN401 - its own
    package = experiment.open(params, settings).in_process
    if package is not None:
        return f"{package} in the notebook's process"
    return (
        f"{settings.openai_base_url}, model {settings.openai_model}"
        if settings.is_remote
        else "the embedded vLLM"
    )


def _place(experiment: Experiment[Any], params: Any, settings: Settings) -> tuple[str, str | None]:  # noqa: ANN401
    """Return the URL and the model that stored runs of the same place have; ``None``: any model."""
    if experiment.open(params, settings).in_process is not None:
        return "in-process", None
    if settings.openai_base_url is None:
        return "embedded", None
    return settings.openai_base_url, settings.openai_model


def _no_price(params: Any, demand: Demand, settings: Settings) -> str:  # noqa: ANN401 - any Params
    if not spending.is_elsewhere(settings.openai_base_url):
        return "none: nothing leaves this machine"
    if demand.tokens is None:
        return f"unknown, because the tokens are ({demand.why})"
    return (
        "unknown, because no prices are given; set KVLAB_PRICE_PER_MILLION_PROMPT_TOKENS and "
        "KVLAB_PRICE_PER_MILLION_COMPLETION_TOKENS"
    )


def time(name: str, demand: Demand, place: tuple[str, str | None], outputs: Path) -> Time:
    """Return how long a plan will take, by earlier runs of the experiment at the same place.

    Args:
        name: The experiment.
        demand: What the plan sends at most.
        place: URL and model that the earlier runs must have had; the model ``None``: any.
        outputs: Where they are.
    """
    earlier = taken(name, place, outputs)
    if not earlier:
        model = "" if place[1] is None else f" with {place[1]}"
        return Time(None, None, f"no earlier run of {name} at {place[0]}{model} is in {outputs}")
    seconds = []
    for run in earlier:
        if demand.requests is not None:
            seconds.append(run.seconds * demand.requests / run.requests)
        if demand.tokens is not None and run.tokens:
            seconds.append(run.seconds * demand.tokens / run.tokens)
    if not seconds:
        return Time(None, None, f"the size of the plan is ({demand.why})")
    how = (
        f"from {len(earlier)} earlier run{'s' * (len(earlier) > 1)} there, {min(r.requests for r in earlier):,} requests "
        "or more each, scaled by requests and by tokens; the engine's start apart, and other parameters may change it"
    )
    return Time(min(seconds), max(seconds), how)


def taken(name: str, place: tuple[str, str | None], outputs: Path) -> list[Taken]:
    """Return what the newest runs of an experiment at a place took; folders that cannot be read are passed over."""
    found: list[Taken] = []
    for folder in list(reversed(list_folders(outputs)))[:_MOST_LOOKED_AT]:
        if len(found) == _MOST_RUNS:
            break
        with suppress(KvlabError, OSError, sqlite3.Error, ValueError, TypeError):
            if stored_experiment(folder)["name"] != name:
                continue
            with reading(folder / DATABASE), Database(folder / DATABASE) as database:
                row = database.sql.execute("SELECT base_url, model_name FROM runs ORDER BY rowid").fetchone()
                if row is None or row[0] != place[0] or place[1] not in (None, row[1]):
                    continue
                span, requests, tokens = database.sql.execute(_TAKEN).fetchone()
            if requests and span > 0:
                found.append(Taken(span / 1e9, int(requests), int(tokens)))
    return found


def minutes_of_notebook(name: str) -> float | None:
    """Return how long the committed notebook ran, by the stamps of its cells; ``None``: it has none."""
    with suppress(KvlabError, ValueError, TypeError, KeyError, AttributeError):
        cells = read_json(experiments.notebook(name)).get("cells", [])
        stamps = [cell["metadata"]["execution"] for cell in cells if "execution" in cell.get("metadata", {})]
        times = [datetime.fromisoformat(stamp["shell.execute_reply"]) for stamp in stamps]
        began = datetime.fromisoformat(stamps[0]["iopub.execute_input"]) if stamps else None
        return None if began is None else (max(times) - began).total_seconds() / 60
    return None


def outputs_of(given: Path | None) -> Path:
    """Return where run folders are."""
    return (given or paths.outputs_dir()).resolve()
