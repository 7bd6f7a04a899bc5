"""A session that a notebook has opened: it keeps the run's status, notices changed parameters, and shows itself."""

import atexit
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from kvlab.endpoints import facts
from kvlab.errors import InputError
from kvlab.findings import Summary
from kvlab.records import Recorded, Trial
from kvlab.runs import status
from kvlab.runs.progress import in_kernel
from kvlab.session import P, Session

if TYPE_CHECKING:
    from kvlab.report.shown import Shown


class Interrupted(KeyboardInterrupt):
    """The person stopped a cell: one line in the notebook, and no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class NotebookSession(Session[P]):
    """What ``kvlab.open`` returns."""

    _namespace: Mapping[str, Any] | None = None
    _given: Mapping[str, Any] | None = None
    _owns_status = False
    _summary: Summary | None = None

    def watch(self, namespace: Mapping[str, Any]) -> None:
        """Remember the parameters as they were when the run was opened."""
        self._namespace, self._given = namespace, dict(self.experiment.Params.collect(namespace))

    def warm_up(self) -> list[Recorded]:
        """Make the requests that are not measured (`Session.warm_up`).

        Raises:
            InputError: A parameter was changed after the run was opened.
        """
        self._refuse_changed()
        with self._interruptible("in the warm-up", "it is made again, with a new prompt"):
            return super().warm_up()

    def pending(self) -> Iterator[Trial]:
        """Yield the trials that are still to be measured, in order, with progress.

        Raises:
            InputError: A parameter was changed after the run was opened.
        """
        self._refuse_changed()
        yield from super().pending()

    def measure(self, trial: Trial) -> list[Recorded]:
        """Measure one trial (`Session.measure`); a notebook that is interrupted says how to go on."""
        again = "that trial starts again from cold, with a new prompt"
        with self._interruptible(f"in {trial.trial_id}. What is done is stored", again):
            return super().measure(trial)

    @contextmanager
    def _interruptible(self, where: str, again: str) -> Iterator[None]:
        """Make one line of an interrupt, where a person has stopped a cell."""
        try:
            yield
        except KeyboardInterrupt:
            if self._steps is not None:
                self._steps.stop()
            if not in_kernel() or "KVLAB_HEADLESS" in os.environ:
                raise
            raise Interrupted(f"Interrupted {where}; run this cell again to go on: {again}.") from None

    def _changed(self) -> Iterator[tuple[str, Any, Any]]:
        if self._namespace is not None and self._given is not None:
            for name, now in self.experiment.Params.collect(self._namespace).items():
                if now != self._given.get(name):
                    yield name, self._given.get(name), now

    def _refuse_changed(self) -> None:
        for name, before, now in self._changed():
            fix = f"was {before!r} when this run was opened; run the opening cell again for a run with it"
            raise InputError(name, now, fix)

    # Showing --------------------------------------------------------------------------------------------

    def facts(self) -> "Shown":
        """Return what the server can prove, and how that is known."""
        return facts.as_table(self.identity.facts)

    def announce(self, summary: Summary) -> None:
        """Show the verdict: in a notebook as a badge with links, elsewhere as a line."""
        self._summary = summary
        for name, before, now in self._changed():
            print(f"{name} is {now!r} now; this run was measured with {before!r}, and its report says so")
        if not in_kernel() or "KVLAB_HEADLESS" in os.environ:
            super().announce(summary)
        if in_kernel():
            from IPython.display import display

            display(summary.written_in(self.folder))  # type: ignore[no-untyped-call]
            summary.shown_already()

    def progress(self) -> tuple[int, int]:
        """Return how many trials are measured, and how many there are."""
        database = self.data().database if self.closed else self.database
        states = database.trial_state()
        return sum(state == "done" for state, _ in states.values()), len(self.trials)

    def _next(self) -> str:
        done, total = self.progress()
        if self._summary is not None:
            return f"finished: {self._summary.verdict}"
        if self.closed:
            return f"closed; kvlab.open(…, run_dir={str(self.folder)!r}) goes on with it"
        return "run.finish() writes the report" if done == total else "measure what is left"

    def __repr__(self) -> str:
        done, total = self.progress()
        return f"<{self.experiment.name} {self.run.experiment_id}: {done} of {total} trials measured; {self._next()}>"

    def _repr_html_(self) -> str:
        from kvlab.escape import html
        from kvlab.report import badge, cards  # only where it is shown

        done, total = self.progress()
        it = self.identity
        return cards.lines(
            self.experiment.title,
            [
                ("run", f"<code>{html(self.run.experiment_id)}</code>"),
                ("server", html(f"{it.kind} {it.version or ''}, {it.model}")),
                ("measured", f"{done} of {total} trials"),
                ("next", html(self._next())),
                ("folder", badge.place(self.folder)),
            ],
        )

    # Status ---------------------------------------------------------------------------------------------

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
            reason = "the notebook ended before its last cell"
            with suppress(OSError):  # the folder is gone: at the end of a process there is nobody to tell
                status.end(self.folder, status.Status.INTERRUPTED, reason=reason)
            self._owns_status = False
        atexit.unregister(self.abandon)
        self.close()
