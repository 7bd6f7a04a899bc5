"""The process between the users of an embedded server and the server: it outlives none of them.

    python -m kvlab.serving.supervisor STATE-FILE LISTENER-FD

A user holds a *lease*: an open connection to the supervisor's socket. The kernel closes it in
whatever way the user ends, so nothing has to be said for a lease to end, and SIGKILL is no special
case. Without a lease the server is stopped after a short grace. If the supervisor itself is killed,
two things that need no code of ours to run end the server: the kernel's parent-death signal, and a
shell that waits for a pipe to close and then kills the server's process group (vLLM's engine and
workers are in it, and would survive the first).
"""

import contextlib
import ctypes
import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from kvlab.serving.state import Home, ProcessId, State, family, kill

FIRST_LEASE_S = 30.0
TICK_S = 0.2
STOP_S = 15.0
REAPER = 'read -r _; kill -s KILL -- "-$1"'
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Supervisor:
    """Starts the server, tells its leaseholders about it, and stops it when they are gone."""

    def __init__(self, home: Home, listener: socket.socket, state: State) -> None:
        self.home, self.listener, self.state = home, listener, state
        self.leases: set[socket.socket] = set()
        self.selector = selectors.DefaultSelector()
        self.selector.register(listener, selectors.EVENT_READ)
        self.give_up_at = time.monotonic() + FIRST_LEASE_S
        self.reason = ""
        self._start()

    def run(self) -> None:
        """Serve until nobody holds a lease, the server ends, or a signal asks for the end."""
        retried = False
        try:
            while not self._abandoned():
                self._tick(TICK_S)
                code = self.server.poll()
                if code is None:
                    if self.state.status == "starting" and _is_healthy(self.state.port):
                        self._announce_ready()
                elif not retried and self._lost_the_port():
                    retried = True
                    self._end_server()
                    self._start()
                else:
                    self.reason = f"it ended with {_exit_words(code)}"
                    break
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            self._shut_down()

    def _start(self) -> None:
        # The port stays bound here, without listening, for as long as the server lives: the kernel
        # then gives it to nobody else, while the server, which sets SO_REUSEADDR, can have it.
        # vLLM also sets SO_REUSEPORT, so without this two servers could share a port unnoticed.
        self.reserved = socket.socket()
        self.reserved.bind(("127.0.0.1", 0))
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.state.port = self.reserved.getsockname()[1]
        command = [part.replace("{port}", str(self.state.port)) for part in self.state.command]
        # A session of its own, so that one signal to the group reaches all of the server.
        self.server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_die_with_parent
        )
        self.reaper = subprocess.Popen(
            ["/bin/sh", "-c", REAPER, "kvlab-reaper", str(self.server.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self.state.supervisor = ProcessId.of(os.getpid())
        self.state.processes = family(self.server.pid)
        self.home.write(self.state)

    def _tick(self, timeout_s: float) -> None:
        """Take new leases and drop closed ones."""
        for key, _ in self.selector.select(timeout_s):
            if key.fileobj is self.listener:
                lease, _ = self.listener.accept()
                lease.setblocking(False)
                self.leases.add(lease)
                self.selector.register(lease, selectors.EVENT_READ)
                self._tell(lease)
            elif isinstance(key.fileobj, socket.socket) and _is_closed(key.fileobj):
                self._drop(key.fileobj)

    def _abandoned(self) -> bool:
        if not self.leases and time.monotonic() > self.give_up_at:
            self._tick(0)  # somebody may have come at the last moment
            return not self.leases
        return False

    def _announce_ready(self) -> None:
        self.state.status = "ready"
        self.state.processes = family(self.server.pid)
        self.home.write(self.state)
        self._tell(*tuple(self.leases))

    def _tell(self, *leases: socket.socket) -> None:
        """Send the state of affairs, one line of JSON."""
        message = {"status": self.state.status, "port": self.state.port, "pid": self.server.pid}
        if self.reason:
            message |= {"status": "ended", "reason": self.reason}
        for lease in leases:
            try:
                lease.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                self._drop(lease)

    def _drop(self, lease: socket.socket) -> None:
        if lease not in self.leases:
            return
        self.leases.remove(lease)
        self.selector.unregister(lease)
        lease.close()
        if not self.leases:
            self.give_up_at = time.monotonic() + self.state.grace_s

    def _lost_the_port(self) -> bool:
        return self.state.status == "starting" and "ddress already in use" in self.home.log_text()

    def _shut_down(self) -> None:
        # The door first: who comes now is refused, waits for this process to end, and starts anew.
        self.selector.unregister(self.listener)
        self.listener.close()
        self.reason = self.reason or ("it was told to stop" if self.leases else "nobody uses it")
        print(f"kvlab: the server is stopped: {self.reason}", flush=True)
        self._tell(*tuple(self.leases))
        self._end_server()
        self.home.clear()

    def _end_server(self) -> None:
        """SIGTERM to the server, then SIGKILL to whatever is left of it."""
        members = family(self.server.pid) or self.state.processes
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.server.terminate()
            self.server.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.server.pid, signal.SIGKILL)
        self.server.wait()
        kill(members)
        # Killed before its pipe closes: it must not act on a process group that is no more.
        self.reaper.kill()
        self.reaper.communicate()
        self.reserved.close()


def _die_with_parent() -> None:
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _is_closed(lease: socket.socket) -> bool:
    try:
        return not lease.recv(1024)
    except BlockingIOError:
        return False
    except OSError:
        return True


def _exit_words(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _terminated(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def main(state_file: str, listener_fd: str) -> None:
    """Become independent of the caller and supervise."""
    # The caller waits for this first process, so that it is left with no child, hence no zombie.
    if os.fork():
        os._exit(0)
    signal.signal(signal.SIGTERM, _terminated)
    listener = socket.socket(fileno=int(listener_fd))
    listener.set_inheritable(False)
    home = Home(Path(state_file).parent)
    state = home.read()
    if state is None:
        raise SystemExit(f"kvlab: {state_file} cannot be read")
    Supervisor(home, listener, state).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
