"""A run's data as findings read them, made of frames: for truths that no real run has."""

from types import SimpleNamespace

import pandas as pd

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
    )


def summary(experiment, data, params) -> Summary:
    """Return what a report would say."""
    from kvlab.report.build import summarize

    return summarize(experiment.findings(data, params), data, experiment)
