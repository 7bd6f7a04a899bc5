"""Run all stages in forked children, each killed at a commit, until one comes to its end.

``python -m tests.experiments.kv_budget_transition.killed CONFIG CALM KILLED`` makes an uninterrupted run
in the folder CALM (which also loads what the children need), then one in KILLED, and prints how many
children were killed. A child's first commit notes that it has begun; at the second, it dies by SIGKILL: first just
before (what it had done is lost), the next child just after. Where that one was no step forward (an attempt was
claimed, and its number is spent), the next two die one commit later. So every commit of the whole pipeline is a
boundary at which some child dies, twice.
"""

import os
import signal
import sys
from pathlib import Path

from kvlab.store.database import Database

_commits = 0


class _Killing:
    """A connection whose COMMIT of that number in this process is fatal."""

    def __init__(self, sql, fatal, *, after):
        self._sql, self._fatal, self._after = sql, fatal, after

    def __getattr__(self, name):
        return getattr(self._sql, name)

    def execute(self, statement, *arguments):
        global _commits
        _commits += statement == "COMMIT"
        if statement != "COMMIT" or _commits < self._fatal:
            return self._sql.execute(statement, *arguments)
        if self._after:
            self._sql.execute(statement)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it is dead")


def _arm(fatal, *, after):
    opened = Database.__init__

    def init(self, *arguments, **options):
        opened(self, *arguments, **options)
        self.sql = _Killing(self.sql, fatal, after=after)

    Database.__init__ = init


def _child(config, outputs, fatal, when):
    """Fork; the child does all stages. Returns its exit status as `os.waitpid` gives it."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        from kvlab.command import pipeline

        _arm(fatal, after=when == "after")
        global _commits
        _commits = 0
        pipeline.everything(pipeline.staged_run(config, [], outputs=outputs), lambda line: None)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(config, calm, outputs):
    import torch

    from kvlab.command import pipeline

    torch.set_num_threads(1)  # a thread pool does not survive a fork
    pipeline.everything(pipeline.staged_run(config, [], outputs=calm), lambda line: None)
    killed, fatal, before = 0, 2, None
    while True:
        for when in ("before", "after"):
            status = _child(config, outputs, fatal, when)
            if not os.WIFSIGNALED(status):
                return status, killed
            assert os.WTERMSIG(status) == signal.SIGKILL
            killed += 1
            assert killed < 500
        now = _progress(outputs)
        fatal, before = (2 if now != before else fatal + 1), now


def _progress(outputs):
    """What the runs hold, but for the sessions and the numbers of attempts."""
    counts = (
        "requests",
        "added_budgets",
        "scores",
        "bin_stats",
        "stages",
        "runs",
        "examples",
        "trials WHERE status = 'done'",
    )
    found = []
    for path in sorted(outputs.glob("*/*/run.sqlite")):
        with Database(path) as database:
            found += [database.sql.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in counts]
            found += [row[0] for row in database.sql.execute("SELECT inputs_sha256 FROM stages")]
    return found


if __name__ == "__main__":
    status, killed = main(*(Path(name) for name in sys.argv[1:]))
    print(f"killed {killed}")
    sys.exit(os.waitstatus_to_exitcode(status))
