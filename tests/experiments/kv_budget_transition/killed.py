"""Run all stages in forked children, each killed at a commit, until one comes to its end.

``python -m tests.experiments.kv_budget_transition.killed CONFIG CALM KILLED`` makes an uninterrupted run
in the folder CALM (which also loads what the children need), then one in KILLED, and prints how many
children were killed. A child's first commit notes that it has begun; at the second, it dies by SIGKILL: alternately just
before (what it had done is lost) and just after. So every commit of the whole pipeline is a
boundary at which some child dies, twice.
"""

import os
import signal
import sys
from pathlib import Path

from kvlab.store.database import Database

_commits = 0


class _Killing:
    """A connection whose second COMMIT in this process is fatal."""

    def __init__(self, sql, *, after):
        self._sql, self._after = sql, after

    def __getattr__(self, name):
        return getattr(self._sql, name)

    def execute(self, statement, *arguments):
        global _commits
        _commits += statement == "COMMIT"
        if statement != "COMMIT" or _commits < 2:
            return self._sql.execute(statement, *arguments)
        if self._after:
            self._sql.execute(statement)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it is dead")


def _arm(*, after):
    opened = Database.__init__

    def init(self, *arguments, **options):
        opened(self, *arguments, **options)
        self.sql = _Killing(self.sql, after=after)

    Database.__init__ = init


def _child(config, outputs, kill):
    """Fork; the child does all stages. Returns its exit status as `os.waitpid` gives it."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        from kvlab.command import jobs, pipeline

        if kill is not None:
            _arm(after=kill == "after")
        global _commits
        _commits = 0
        pipeline.everything(jobs.job(config, [], outputs=outputs), lambda line: None)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(config, calm, outputs):
    import torch

    from kvlab.command import jobs, pipeline

    torch.set_num_threads(1)  # a thread pool does not survive a fork
    pipeline.everything(jobs.job(config, [], outputs=calm), lambda line: None)
    killed = 0
    while True:
        # A death before the commit changes nothing, so the next child dies after it.
        status = _child(config, outputs, ("before", "after")[killed % 2])
        if not os.WIFSIGNALED(status):
            return status, killed
        assert os.WTERMSIG(status) == signal.SIGKILL
        killed += 1
        assert killed < 500


if __name__ == "__main__":
    status, killed = main(*(Path(name) for name in sys.argv[1:]))
    print(f"killed {killed}")
    sys.exit(os.waitstatus_to_exitcode(status))
