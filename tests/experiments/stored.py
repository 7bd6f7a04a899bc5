"""A run's data as findings read them, made of frames: for truths that no real run has."""

import sqlite3
from importlib import resources
from types import SimpleNamespace

import pandas as pd

from kvlab.conclude import conclude
from kvlab.findings import Summary


def run_data(requests, plan, *, identity=None, state="done", **tables):
    """Return what stands in for a `kvlab.runs.data.RunData` whose database holds these rows."""
    rows = [(t.trial_id, n, t.point, t.repeat, t.planned, state, 1) for n, t in enumerate(plan.trials)]
    columns = ["trial_id", "ordinal", "point", "repeat", "planned", "status", "attempts"]
    return SimpleNamespace(
        requests=requests,
        take_requests=lambda without=(): requests.drop(columns=[c for c in without if c in requests]),
        trials=pd.DataFrame(rows, columns=columns),
        table=lambda name: tables[name],
        identity=identity,
        profile="test",
        unsound=[],
        sql=_empty_database(),
    )


def _empty_database():
    sql = sqlite3.connect(":memory:")
    sql.executescript(resources.files("kvlab.store").joinpath("schema.sql").read_text())
    sql.row_factory = sqlite3.Row
    return sql


def summary(experiment, data, params) -> Summary:
    """Return what a report would say."""
    return conclude(experiment, data, params).summary(experiment.name, data.profile)
