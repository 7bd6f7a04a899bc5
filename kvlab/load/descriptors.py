"""File descriptors: each connection takes one, and the system allows a process only so many."""

import contextlib
import resource

_AT_MOST = 65_536
_OTHERS = 64  # pipes, files, the database, the selector


def _limits() -> tuple[int, int]:
    """Return the soft limit, and what it can be raised to; no limit is a large one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    known = [_AT_MOST if value == resource.RLIM_INFINITY else value for value in (soft, hard)]
    return known[0], max(known[0], min(known[1], _AT_MOST))


def allow_all() -> None:
    """Raise this process's soft limit to what the system allows."""
    soft, most = _limits()
    if most > soft:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))


def connections_allowed() -> int:
    """Return how many connections a load generator can have at once."""
    return max(0, _limits()[1] - _OTHERS)
