"""A server in a process of its own that ends with the one who started it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

_PR_SET_PDEATHSIG = 1
_KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_FILE")


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def child(
    command: Sequence[str | Path],
    log: Path,
    ready: str,
    *,
    env: Mapping[str, str] | None = None,
    key: str = "EMPTY",
    timeout_s: float = 120.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends.

    Args:
        command: What to run.
        log: Gets all that it prints.
        ready: A page that answers 200 once it serves.
        env: Variables beside the few that every program needs; no key of the user's gets there.
        key: For that page.
        timeout_s: How long to wait for it.

    Raises:
        RuntimeError: It ended, or does not serve in time; with the end of its log.
    """
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ} | dict(env or {})
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    try:
        _await(process, log, ready, key, timeout_s)
        yield process
    finally:
        _end(process)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _await(process: subprocess.Popen[bytes], log: Path, ready: str, key: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    with httpx.Client(trust_env=False, timeout=5.0, headers={"Authorization": f"Bearer {key}"}) as http:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if http.get(ready).status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    what = "ended" if process.poll() is not None else f"does not serve after {timeout_s:.0f} s"
    raise RuntimeError(f"{log.stem} {what}:\n{tail}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign, wait_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0)):
        if process.poll() is None:
            os.killpg(process.pid, sign)
            try:
                process.wait(wait_s)
            except subprocess.TimeoutExpired:
                continue
