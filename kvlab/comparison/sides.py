"""Which runs are compared: a name on the command line becomes a side of one or more stored runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab import paths
from kvlab.errors import InputError
from kvlab.runs.data import RunData
from kvlab.runs.find import run_folder
from kvlab.runs.status import reconcile
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.connect import reading

if TYPE_CHECKING:
    from kvlab.endpoints.connect import Identity

#: Of the texts of requests nothing is compared.
_COLUMNS = (
    "request_id", "trial_id", "arm", "point", "prompt_tokens", "completion_tokens", "cached_tokens", "cache_state",
    "ttft_ms", "latency_ms", "tpot_ms", "status", "sent_ns", "done_ns", "used", "session_id", "sent_utc", "item",
    "machine_busy_share",
)  # fmt: skip
#: The observation that says which start of the engine measured a trial (`kvlab.session`).
START = "engine_start"


@dataclass(frozen=True)
class StoredRun:
    """What a comparison reads of one run.

    Attributes:
        folder: Its folder.
        stored: What its database says of it (`kvlab.runs.data.RunData`).
        identity: What answered; ``None``: the manifest is missing.
        requests: Measured requests that count or failed; some columns of `kvlab.store.frames.requests`.
        trials: How many are planned, done and failed.
        starts: Which start of the engine measured a trial, by trial id; those that are unknown are missing.
    """

    folder: Path
    stored: Mapping[str, Any]
    identity: "Identity | None"
    requests: pd.DataFrame
    trials: Mapping[str, int]
    starts: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its id, as ``kvlab ls`` prints it."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def origin(self) -> tuple[str, str, str]:
        """What a copy of it shares with it, wherever the copy lies."""
        return tuple(str(self.stored[key]) for key in ("experiment_id", "isolation_id", "created_utc"))  # type: ignore[return-value]

    @classmethod
    def read(cls, folder: Path) -> "StoredRun":
        """Read a run folder.

        Raises:
            InputError: There is no run, or its database is damaged.
        """
        with reading(folder / DATABASE), RunData.open(folder) as data:
            frame = data.requests[list(_COLUMNS)]
            counts = data.trials["status"].value_counts()
            rows = data.sql.execute(
                "SELECT trial_id, text FROM observations WHERE name = ? AND trial_id IS NOT NULL "
                "ORDER BY observation_id",
                (START,),
            )
            return cls(
                folder=folder,
                stored=data.stored,
                identity=data.identity,
                requests=frame,
                trials={"planned": len(data.trials), **{str(k): int(v) for k, v in counts.items()}},
                starts={str(row[0]): str(row[1]) for row in rows},
            )


@dataclass(frozen=True)
class Side:
    """One of the things compared: one run, or all runs of a day.

    Attributes:
        name: As it was asked for.
        runs: In the order of time.
    """

    name: str
    runs: tuple[StoredRun, ...]

    @property
    def first(self) -> StoredRun:
        """The run that stands for all of them where they are alike."""
        return self.runs[0]

    @property
    def title(self) -> str:
        """What people read: the id of its one run, else the name as it was asked for."""
        return self.first.name if len(self.runs) == 1 else Path(self.name).name

    @cached_property
    def requests(self) -> pd.DataFrame:
        """The requests of all its runs, with ``run`` (its number) and ``start`` (what `starts` counts)."""
        parts = [
            run.requests.assign(run=number, start=self._labels(number))
            for number, run in enumerate(self.runs)
        ]
        return pd.concat(parts, ignore_index=True)

    def _labels(self, number: int) -> "pd.Series[str]":
        run = self.runs[number]
        return run.requests["trial_id"].map(lambda trial: run.starts.get(trial, f"run {number}"))

    @cached_property
    def starts_known(self) -> bool:
        """Whether every trial says which start of the engine measured it."""
        return all(run.starts for run in self.runs) and not any(
            label.startswith("run ") for label in self.requests["start"].unique()
        )

    @cached_property
    def starts(self) -> int:
        """How many starts of the engine (where they are unknown: runs) it is from; at least 1."""
        return max(1, int(self.requests["start"].nunique()))


def find(name: str | Path) -> Side:
    """Return the side of a name: a run folder, an id as ``kvlab ls`` prints it, a date, or a folder of run folders.

    A date, or a folder of run folders, stands for all its runs together: their engine starts are one side's.

    Raises:
        InputError: There is nothing of that name, or the runs of a date are of more than one experiment.
    """
    path = Path(name)
    if not path.is_dir():
        path = paths.outputs_dir() / path
    path = path.resolve() if path.is_dir() else run_folder(name, field="compare")
    if (path / DATABASE).is_file():
        folders = [path]
    else:
        folders = [inner.parent for inner in sorted(path.glob(f"*/{DATABASE}"))]
    if not folders:
        raise InputError("compare", str(name), f"holds no run ({DATABASE}); name a run folder or a date")
    runs = tuple(StoredRun.read(folder) for folder in folders)
    kinds = sorted({str(run.stored["name"]) for run in runs})
    if len(kinds) > 1:
        raise InputError(
            "compare", str(name), f"holds runs of {' and '.join(kinds)}; name the runs of one experiment"
        )
    return Side(str(name), runs)


def is_running(run: StoredRun) -> bool:
    """Whether somebody is still measuring it."""
    return reconcile(run.folder).get("status") == "running"
