"""A run's database, opened once, and everything that findings are made of."""

import json
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from kvlab.endpoints.connect import Identity
from kvlab.runs.folder import experiment_row, identity_of
from kvlab.store import frames
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.database import Database

if TYPE_CHECKING:
    import pandas as pd


class RunData:
    """What a run has stored; frames are read on first use and kept.

    Attributes:
        folder: The run folder.
        database: Its open database.
        sql: Its connection, for statements that a table alone does not answer.
        profile: The name of the profile that the run was started with.
        stored: What the database says of the run: experiment_id, name, profile, params, sources, contract,
            isolation_id, created_utc.
        identity: What answered, and what it could prove; ``None``: the manifest is missing.
    """

    def __init__(
        self, database: Database, *, identity: Identity | None = None, stored: dict[str, Any] | None = None
    ) -> None:
        self.database = database
        self.folder: Path = database.path.parent
        self.stored: dict[str, Any] = stored or experiment_row(database)
        self.identity = identity or identity_of(self.folder)
        self.sql, self.profile = database.sql, str(self.stored["profile"])
        self._tables: dict[str, pd.DataFrame] = {}
        self._requests: pd.DataFrame | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the run of a folder.

        Raises:
            InputError: It is not a run folder.
        """
        database = Database(folder / DATABASE)
        try:
            return cls(database)
        except BaseException:
            database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()

    @property
    def requests(self) -> "pd.DataFrame":
        """Every measured request in the order of sending (`kvlab.store.frames.requests`)."""
        if self._requests is None:
            self._requests = frames.requests(self.sql)
        return self._requests

    def take_requests(self, without: Collection[str] = ()) -> "pd.DataFrame":
        """Return the requests without some columns, and keep no copy.

        The texts of hundreds of thousands of requests are most of their memory; who needs only numbers
        lets go of the rest.
        """
        frame = self.requests.drop(columns=list(without))
        self._requests = None
        return frame

    def replace_requests(self, requests: "pd.DataFrame") -> None:
        """Let these stand for the stored requests: to see what follows from a change (`kvlab.loaded`)."""
        self._requests = requests

    @cached_property
    def trials(self) -> "pd.DataFrame":
        """The plan and how far it is: trial_id, ordinal, point, repeat, planned (a mapping), status, attempts."""
        frame = self.table("trials").sort_values("ordinal", ignore_index=True)
        return frame.assign(planned=[json.loads(text) for text in frame["planned_json"]]).drop(
            columns=["planned_json"]
        )

    @property
    def done(self) -> int:
        """How many trials are done."""
        return int((self.trials["status"] == "done").sum())

    def table(self, name: str) -> "pd.DataFrame":
        """Return a table of the database as a frame, in the order of insertion; read once.

        Raises:
            KeyError: There is no such table.
        """
        import pandas as pd

        if name not in self._tables:
            known = {
                row[0] for row in self.sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            }
            if name not in known:
                raise KeyError(f"{name} is not a table of this database; it has {', '.join(sorted(known))}")
            self._tables[name] = pd.read_sql_query(f'SELECT * FROM "{name}"', self.sql)  # noqa: S608 - checked above
        return self._tables[name]

    @property
    def unsound(self) -> list[str]:
        """What is wrong with the database; empty: every request has one answer or one failure."""
        return frames.integrity(self.sql)
