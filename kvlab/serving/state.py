"""The runtime folder of one embedded server: its state file, and who the processes in it are.

<temporary folder>/kvlab-<uid>/<digest>/
    lock          held while someone decides whether to join or to start
    state.json    which supervisor, which server, which port
    s             the supervisor's socket: an open connection to it is a lease
    server.log    the server's output; server.log.1 and on are earlier ones
"""

import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from kvlab.errors import InputError

KEPT_LOGS = 3
# sockaddr_un holds 104 bytes on macOS and 108 on Linux, the closing zero included.
SOCKET_PATH_BYTES = 103
# psutil derives the creation time from the wall clock, which may have been set meanwhile.
CREATED_TOLERANCE_S = 2.0


class ProcessId(NamedTuple):
    """A process that a later one with the same number cannot be mistaken for."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> "ProcessId":
        """The identity of a process that exists (raises psutil.NoSuchProcess)."""
        return cls(pid, psutil.Process(pid).create_time())

    def process(self) -> psutil.Process | None:
        """The process, if it still runs; a zombie does not."""
        with contextlib.suppress(psutil.Error):
            found = psutil.Process(self.pid)
            same = abs(found.create_time() - self.created) < CREATED_TOLERANCE_S
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        return None


@dataclass
class State:
    """What the state file says; the starter writes it, then the supervisor keeps it.

    Attributes:
        command: The server's command line, `{port}` where the port goes.
        description: What the server is, for people and for those who join it.
        grace_s: How long to keep a server that nobody uses.
        status: `starting` or `ready`.
        port: The server's port on 127.0.0.1; 0 before there is one.
        supervisor: The supervisor; None before it has begun.
        processes: The server's processes, the server itself first.
        api_key: What requests to it need; the folder is readable by this user alone.
    """

    command: list[str]
    description: dict[str, Any]
    grace_s: float = 2.0
    status: str = "starting"
    port: int = 0
    supervisor: ProcessId | None = None
    processes: tuple[ProcessId, ...] = ()
    api_key: str = field(default="", repr=False)


class Home:
    """The runtime folder of the server with one digest."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock, self.state, self.log = path / "lock", path / "state.json", path / "server.log"
        self.socket = path / "s"

    def read(self) -> State | None:
        """The state, or None where there is none that can be used."""
        try:
            raw = json.loads(self.state.read_bytes())
            supervisor, processes = raw.pop("supervisor"), raw.pop("processes")
            raw["supervisor"] = ProcessId(*supervisor) if supervisor else None
            return State(**raw, processes=tuple(ProcessId(*each) for each in processes))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def write(self, state: State) -> None:
        """Replace the state in one step: a reader sees the old one or the new one."""
        partial = self.state.with_suffix(".tmp")
        partial.write_text(json.dumps(asdict(state)))
        partial.replace(self.state)

    def clear(self) -> None:
        """Remove what announces a server."""
        self.socket.unlink(missing_ok=True)
        self.state.unlink(missing_ok=True)

    def rotate_log(self) -> None:
        """Make room for a new log and keep the last few."""
        for age in reversed(range(KEPT_LOGS)):
            old = self.log.with_name(f"server.log.{age}") if age else self.log
            if old.exists():
                old.replace(self.log.with_name(f"server.log.{age + 1}"))

    def log_text(self) -> str:
        """The server's log so far."""
        try:
            return self.log.read_text(errors="replace")
        except OSError:
            return ""


def runtime_root() -> Path:
    """`KVLAB_RUNTIME_DIR`, or a folder of the user's own where temporary files go."""
    configured = os.environ.get("KVLAB_RUNTIME_DIR")
    if configured:
        return Path(configured).expanduser().resolve()
    return Path(tempfile.gettempdir()).resolve() / f"kvlab-{os.getuid()}"


def make_home(digest: str) -> Home:
    """Make the runtime folder for a server, readable by this user alone.

    Raises:
        InputError: The folder belongs to somebody else, is open to others, or its path is too long.
    """
    root = runtime_root()
    home = Home(root / digest)
    if len(os.fsencode(home.socket)) > SOCKET_PATH_BYTES:
        raise InputError("KVLAB_RUNTIME_DIR", str(root), "is too long for a socket; name a shorter folder")
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = root.lstat()
        home.path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise InputError("KVLAB_RUNTIME_DIR", str(root), f"cannot be used: {error}") from error
    # Whoever may write here may have us run a command: a folder that others prepared is refused.
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o022:
        raise InputError("KVLAB_RUNTIME_DIR", str(root), "must be a folder that only you can write to")
    return home


def homes() -> Iterator[Home]:
    """Every runtime folder that has a state file."""
    yield from (Home(path.parent) for path in sorted(runtime_root().glob("*/state.json")))


def family(pid: int) -> tuple[ProcessId, ...]:
    """A process and all its descendants, itself first; empty when it is gone."""
    with contextlib.suppress(psutil.Error):
        members = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return tuple(ProcessId(each.pid, each.create_time()) for each in members)
    return ()


def kill(processes: Sequence[ProcessId], wait_s: float = 5.0) -> None:
    """End those of the processes that still run, at once, and wait until they are gone."""
    running = [process for each in processes if (process := each.process())]
    for process in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline and any(each.process() for each in processes):
        time.sleep(0.05)
