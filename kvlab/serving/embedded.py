"""The embedded server as its users see it: `acquire()` one, hold the lease, let go.

A server is started by whoever needs it first and shared by all who need the same one; it ends when
the last lease does, however its holder ended.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kvlab import paths
from kvlab.errors import ServerError
from kvlab.serving import threads
from kvlab.serving.launch import KEY, ServerSpec, first_error, phase, server_spec
from kvlab.serving.lease import Lease, LeaseConnection
from kvlab.serving.model import resolve_model
from kvlab.serving.state import Home, State, homes, kill, make_home

__all__ = ["Lease", "acquire", "lease_server", "running"]

PROGRESS_S = 10.0
RETIRE_S = 30.0
LOG_LINES = 15


def acquire(
    model_name: str | None = None,
    *,
    cache_dir: Path | None = None,
    say: Callable[[str], None] = print,
    timeout_s: float = 600,
    extra_flags: Sequence[str] = (),
) -> Lease:
    """Get a server for a model: one that runs already, or a new one.

    Args:
        model_name: The setting `KVLAB_MODEL`; None for the packaged model.
        cache_dir: Where prepared models are kept; `kvlab.paths.cache_dir()` unless told.
        say: Takes lines of progress.
        timeout_s: How long to wait for the server, in seconds.
        extra_flags: More flags for vLLM. Other flags are another server.

    Raises:
        InputError: The model or the engine is not there, or a folder cannot be used.
        ServerError: The server did not start; the message has the reason and the end of its log.
    """
    model = resolve_model(model_name, cache_dir=cache_dir or paths.cache_dir(), say=say)
    return lease_server(server_spec(model, extra_flags), say=say, timeout_s=timeout_s)


def lease_server(
    spec: ServerSpec, *, say: Callable[[str], None] = print, timeout_s: float = 600, grace_s: float = 2.0
) -> Lease:
    """Get a server that is `spec`; see `acquire`.

    Args:
        spec: What to start unless it runs.
        say: Takes lines of progress.
        timeout_s: How long to wait for the server, in seconds.
        grace_s: How long a server that this call starts outlives its last lease, in seconds.
    """
    home = make_home(spec.digest)
    deadline = time.monotonic() + timeout_s
    try:
        # Held while deciding, not while waiting: who comes second shares the wait, and a Ctrl-C.
        with FileLock(home.lock, timeout=timeout_s):
            joined = _join(home)
            connection = joined or _start(spec, home, grace_s)
    except Timeout as error:
        raise ServerError(f"another process has held {home.lock} for {timeout_s:.0f} s") from error
    try:
        doing = "joining" if joined else "starting"
        say(f"{doing} the embedded server: {spec.model.served_name} on {spec.engine_version}")
        ready = _await_ready(connection, home, say, deadline)
        state = home.read()
        if state is None:
            raise _failure("it ended at once", home)
        return Lease(connection, ready, state, home.log, reused=joined is not None)
    except BaseException:
        connection.close()  # also on Ctrl-C: a server that nobody waits for is not started
        raise


def running() -> list[dict[str, Any]]:
    """The embedded servers that are up or starting, for a person to read; changes nothing."""
    found = []
    for home in homes():
        state = home.read()
        if state and state.supervisor and state.supervisor.process() and _serves(state):
            model = state.description["model"]
            found.append(
                {
                    "status": state.status,
                    "base_url": f"http://127.0.0.1:{state.port}/v1",
                    "model": model["served_name"],
                    "source": model["source"],
                    "engine_version": state.description["engine_version"],
                    "flags": state.description["flags"],
                    "pid": state.processes[0].pid,
                    "supervisor_pid": state.supervisor.pid,
                    "started_unix_s": state.supervisor.created,
                    "log_path": str(home.log),
                }
            )
    return found


def _serves(state: State) -> bool:
    return bool(state.processes and state.processes[0].process())


def _join(home: Home) -> LeaseConnection | None:
    """A lease on the server that the folder tells of; else the folder, cleared of what it tells of."""
    if connection := LeaseConnection.open(home):
        return connection
    if state := home.read():
        _retire(state)
    home.clear()
    return None


def _retire(state: State) -> None:
    """Wait for a supervisor that is stopping its server; end what a dead or stuck one has left."""
    deadline = time.monotonic() + RETIRE_S
    while state.supervisor and state.supervisor.process() and time.monotonic() < deadline:
        time.sleep(0.1)
    kill([*([state.supervisor] if state.supervisor else []), *state.processes])


def _start(spec: ServerSpec, home: Home, grace_s: float) -> LeaseConnection:
    """Start a supervisor and take the first lease; the caller holds the folder's lock."""
    home.rotate_log()
    description = {
        "model": asdict(spec.model),
        "flags": [*spec.flags, *spec.sizing],
        "engine_version": spec.engine_version,
        "device": spec.device,
        "block_size": spec.block_size,
    }
    environment = spec.environment()
    threads.bound(environment)
    key = environment.get(KEY, "")
    home.write(State(command=spec.command(), description=description, grace_s=grace_s, api_key=key))
    # The supervisor inherits the socket, so that there is no moment at which it cannot be reached.
    with socket.socket(socket.AF_UNIX) as listener, home.log.open("wb") as log:
        listener.bind(str(home.socket))
        listener.listen(64)
        command = [sys.executable, "-m", "kvlab.serving.supervisor", str(home.state), str(listener.fileno())]
        # `python -m` imports from the working folder first: ours, where nothing shadows a module.
        starter = subprocess.Popen(
            command,
            cwd=home.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
        starter.wait()
    connection = LeaseConnection.open(home)
    if connection is None:
        raise _failure("its supervisor did not start", home)
    return connection


def _await_ready(
    connection: LeaseConnection, home: Home, say: Callable[[str], None], deadline: float
) -> dict[str, Any]:
    """Wait until the server answers, and say now and then what it is doing."""
    began = time.monotonic()
    message: dict[str, Any] | None = connection.greeting
    while message is None or message["status"] == "starting":
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise _failure(f"it was not ready in time, after {time.monotonic() - began:.0f} s", home)
        try:
            message = connection.receive(min(PROGRESS_S, remaining))
        except OSError as error:
            raise _failure(str(error), home) from error
        if message is None:
            say(f"the server is starting: {phase(home.log_text())} ({time.monotonic() - began:.0f} s)")
    if message["status"] == "ended":
        raise _failure(message["reason"], home)
    return message


def _failure(reason: str, home: Home) -> ServerError:
    text = home.log_text()
    cause = first_error(text)
    tail = "\n".join(text.splitlines()[-LOG_LINES:])
    because = f"\nIts first error: {cause}" if cause else ""
    return ServerError(
        f"the embedded server did not start: {reason}{because}\nThe end of its log, {home.log}:\n{tail}"
    )
