"""Engine starts as a level of their own: a run's trials spread over several starts of its engine.

Each start of an engine is dealt something that its requests share: where its memory lies, what its threads settle on.
Ten thousand requests of one start say nothing of the next. So a profile may ask for ``starts: k``, and between
stretches of the trials the engine that kvlab has started is ended and started anew. Which start measured a
trial is stored beside it; an endpoint of somebody else's cannot say, and counts as one.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import psutil

from kvlab.errors import InputError, KvlabError

if TYPE_CHECKING:
    from kvlab.records import Trial
    from kvlab.session import Session

#: The observation that holds which start of the engine measured a trial.
NAME = "engine_start"
_GONE_S = 60.0
#: What two starts of one engine must share.
_SAME = ("kind", "version", "model", "revision", "block_size", "max_model_len")


def check(starts: int, engine: Any) -> None:  # noqa: ANN401 - an Engine
    """Refuse what cannot be started anew.

    Raises:
        InputError: It is an endpoint, or an embedded server that somebody else has started.
    """
    if starts == 1:
        return
    connection = getattr(engine, "connection", None)
    if connection is None:
        return  # an engine of this process
    if connection.embedded is None:
        fix = "needs an engine that kvlab starts; of an endpoint, make one run after each restart and compare the day"
        raise InputError("starts", starts, fix)
    if connection.embedded.reused:
        fix = "needs a server of its own, and another run or `kvlab serve` holds it; end that first"
        raise InputError("starts", starts, fix)


class Starts:
    """The starts of one session's engine.

    Args:
        trials: The plan, in the order of measuring.
        count: How many starts they are spread over.
        reopen: Opens the engine once more.
        number: How many starts the run has had before.
    """

    def __init__(
        self, trials: "Sequence[Trial]", count: int, reopen: Callable[[], Any], number: int = 0
    ) -> None:
        self._stretch = {trial.trial_id: i * count // len(trials) for i, trial in enumerate(trials)}
        self._reopen, self._number = reopen, number
        self._current: int | None = None

    def is_next(self, trial: "Trial") -> bool:
        """Whether a trial is of another stretch than the one before: it needs another start."""
        stretch = self._stretch.get(trial.trial_id)
        before, self._current = self._current, stretch
        return before is not None and stretch != before

    def before(self, trial: "Trial", session: "Session[Any]") -> None:
        """Start a session's engine anew where the trial is of another stretch; store which start measures it."""
        if self.is_next(trial):
            session.note("starting the engine anew")
            session.replace_engine(self.restarted)
        if (label := self.label(session.engine)) is not None:
            session.database.observe(trial.trial_id, NAME, None, text=label)

    def restarted(self, engine: Any) -> Any:  # noqa: ANN401 - an Engine
        """Return the engine, ended and started anew.

        Raises:
            KvlabError: Somebody else keeps its server up, or what came up is another engine.
        """
        before, lease = engine.identity, _lease(engine)
        pid = None if lease is None else int(lease.pid)
        engine.close()
        if pid is not None and not _gone(pid):
            raise KvlabError(
                "the embedded server did not end, as another run or `kvlab serve` holds it; end that, then --resume"
            )
        self._number += 1
        found = self._reopen()
        for field in _SAME:
            was, now = getattr(before, field), getattr(found.identity, field)
            if was != now:
                found.close()
                raise KvlabError(f"another engine came up: its {field} was {was!r} and is {now!r}")
        return found

    def label(self, engine: Any) -> str | None:  # noqa: ANN401 - an Engine
        """Return what no other start of an engine shares; ``None``: it is an endpoint, which may be restarted unseen."""
        lease = _lease(engine)
        if lease is not None:
            return _process(int(lease.pid))
        if getattr(engine, "connection", None) is not None:
            return None
        return f"{_process(os.getpid())}/{self._number}"


def _lease(engine: Any) -> Any:  # noqa: ANN401 - a Lease or None
    return getattr(getattr(engine, "connection", None), "embedded", None)


def _process(pid: int) -> str | None:
    """Return a process's number with when it began, which is given to none after it."""
    try:
        return f"{pid}@{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return None


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + _GONE_S
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.2)
    return False
