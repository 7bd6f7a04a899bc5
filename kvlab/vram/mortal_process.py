"""A handle on the child process: start it, lengthen its context, watch its memory, survive its death."""

import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from kvlab.errors import KvlabError
from kvlab.serving.launch import SECRET
from kvlab.vram.mortal_model import MALLOC_ENVIRONMENT

#: The limit of the kernel acts on writable memory; what is resident is watched too, with some slack.
WATCHDOG_SLACK = 1.25
LOAD_S = 600.0
_NAMED = re.compile(r"[\w.]*(?:Error|Exception)\b")
STEP_S = 600.0


def _threads() -> dict[str, str]:
    """Return how many threads a child computes with, unless the environment says: half of the cores.

    The server and this process need the others. More threads than cores wait for each other: on two cores
    with a server beside, two threads took ten times as long as one.
    """
    return {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2))}


class Child:
    """A running child process; see `kvlab.vram.mortal_model`.

    Args:
        job: What it is to load, and its cap.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        clean = {name: text for name, text in os.environ.items() if not SECRET.search(name)}
        offline = {"HF_HUB_OFFLINE": "1"} if Path(job["source"]).is_absolute() else {}
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kvlab.vram.mortal_model"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**_threads(), **clean, **MALLOC_ENVIRONMENT, **offline, "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        )
        self.pid, self._buffer = self._process.pid, b""
        self._limit_bytes: int | None = None
        self._headroom_bytes = int(job["headroom_bytes"])
        self._send(job)

    def wait_until_ready(self) -> dict[str, Any]:
        """Return what it holds with the model alone.

        Raises:
            KvlabError: It did not get so far.
        """
        event = self._receive(LOAD_S)
        if event.get("event") != "ready":
            self.close()
            raise KvlabError(f"the child process could not load the model: {self._last_words() or event}")
        if event.get("device") != "cuda":  # there, the cap is of another memory
            self._limit_bytes = int(event["rss_bytes"] + WATCHDOG_SLACK * self._headroom_bytes)
        return event

    def grow(self, tokens: int) -> dict[str, Any]:
        """Lengthen the context. Returns ``held``, ``out_of_memory``, ``timeout`` or ``died`` as ``event``."""
        self._send({"tokens": tokens})
        return self._receive(STEP_S)

    def close(self) -> None:
        """End it."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self, message: dict[str, Any]) -> None:
        if self._process.stdin is None:
            raise KvlabError("the child process has no stdin")
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # what became of it is found when its answer is read

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        """Wait for one event, and meanwhile watch what it takes."""
        output, deadline = self._process.stdout, time.monotonic() + timeout_s
        if output is None:
            raise KvlabError("the child process has no stdout")
        while b"\n" not in self._buffer:
            if time.monotonic() > deadline:
                self.close()
                return {"event": "timeout", "message": f"no answer within {timeout_s:g} s"}
            if self._too_much():
                self.close()
                return {"event": "died", "message": "killed: it held more than its cap allows"}
            if select.select([output], [], [], 0.05)[0]:
                data = os.read(output.fileno(), 65_536)
                if not data:
                    code = self._process.wait()
                    return {"event": "died", "message": f"it ended with {code}: {self._last_words()}"}
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        event: dict[str, Any] = json.loads(line)
        return event

    def _too_much(self) -> bool:
        if self._limit_bytes is None:
            return False
        try:
            return bool(psutil.Process(self.pid).memory_info().rss > self._limit_bytes)
        except psutil.Error:
            return False

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
        named = [line for line in lines if _NAMED.match(line)]  # an exception's first line, not its advice
        return (named or lines)[-1][:300] if lines else ""
