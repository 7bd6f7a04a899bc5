"""How far one number travels: the calls, functions and files that measuring one pair and finishing a run pass.

Counted, not timed: ``sys.setprofile`` sees every Python call, and those inside ``kvlab/`` are kept. The run is a
token sweep of one length against a server with a known answer, so the counts are the same on every machine.
"""

import contextlib
import inspect
import io
import os
import sqlite3
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import kvlab
from benchmarks.servers.process import FakeServer

PACKAGE = str(Path(kvlab.__file__).parent)


class Counted:
    """Counts what happens inside its block."""

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, str]] = Counter()
        self.opened = 0

    def __enter__(self) -> "Counted":
        self._connect = sqlite3.connect

        def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
            self.opened += 1
            return self._connect(*arguments, **options)

        sqlite3.connect = connect
        sys.setprofile(self._see)
        threading.setprofile(self._see)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        sqlite3.connect = self._connect

    def _see(self, frame: Any, event: str, _: object) -> None:
        code = frame.f_code
        # No class or module bodies (imports), no comprehensions: functions that somebody has named.
        named = code.co_flags & inspect.CO_OPTIMIZED and not code.co_name.startswith("<")
        if event == "call" and named and code.co_filename.startswith(PACKAGE):
            self.calls[code.co_filename, code.co_qualname] += 1

    def row(self, what: str) -> dict[str, Any]:
        return {
            "step": what,
            "calls": sum(self.calls.values()),
            "functions": len(self.calls),
            "files": len({name for name, _ in self.calls}),
            "database opened": self.opened,
        }


def run() -> dict[str, Any]:
    """Return the counts for ``run.measure(trial)`` and ``run.finish()``."""
    with tempfile.TemporaryDirectory() as outputs, FakeServer() as server:
        os.environ |= {
            "KVLAB_OUTPUTS": outputs,
            "OPENAI_BASE_URL": server.base_url,
            "OPENAI_API_KEY": "EMPTY",
            "OPENAI_MODEL": "fake",
        }
        with contextlib.redirect_stdout(io.StringIO()):
            session = kvlab.open("token_sweep", token_targets=[300], manual_sections=40, max_tokens=3)
            with Counted() as measured:
                session.measure(session.trials[0])
            with Counted() as finished:
                session.finish()
    return {"rows": [measured.row("measure one pair"), finished.row("finish the run")]}


if __name__ == "__main__":
    for row in run()["rows"]:
        print(row)
