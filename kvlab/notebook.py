"""A session that a notebook has opened: it keeps the run's status, and notices changed parameters."""

import atexit
from collections.abc import Iterator, Mapping
from typing import Any

from kvlab.errors import InputError
from kvlab.records import Trial
from kvlab.runs import status
from kvlab.session import P, Session


class NotebookSession(Session[P]):
    """What ``kvlab.open`` returns."""

    _namespace: Mapping[str, Any] | None = None
    _given: Mapping[str, Any] | None = None
    _owns_status = False

    def watch(self, namespace: Mapping[str, Any]) -> None:
        """Remember the parameters as they were when the run was opened."""
        self._namespace, self._given = namespace, dict(self.experiment.Params.collect(namespace))

    def pending(self) -> Iterator[Trial]:
        """Yield the trials that are still to be measured, in order, with progress.

        Raises:
            InputError: A parameter was changed after the run was opened.
        """
        self._refuse_changed()
        yield from super().pending()

    def _refuse_changed(self) -> None:
        if self._namespace is None or self._given is None:
            return
        for name, now in self.experiment.Params.collect(self._namespace).items():
            before = self._given.get(name)
            if now != before:
                fix = f"was {before!r} when this run was opened; run the opening cell again for a run with it"
                raise InputError(name, now, fix)

    def own_status(self) -> None:
        """Keep ``status.json``, as the runner would: this run was opened without it."""
        self._owns_status = True
        status.begin(self.folder, owner="notebook")

    def on_finish(self) -> None:
        """Say that the run is complete."""
        if self._owns_status:
            status.end(self.folder, status.Status.COMPLETED)
            self._owns_status = False
            atexit.unregister(self.abandon)

    def abandon(self) -> None:
        """Close a run that is not finished, and say so in its status."""
        if self._owns_status:
            status.end(
                self.folder, status.Status.INTERRUPTED, reason="the notebook ended before its last cell"
            )
            self._owns_status = False
        atexit.unregister(self.abandon)
        self.close()
