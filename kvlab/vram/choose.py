"""Which samplers can see an engine's memory."""

import os
from urllib.parse import urlsplit

import psutil

from kvlab.vram.nvml import NvmlDevice, NvmlProcess, device_count
from kvlab.vram.samplers import ProcessTree, Sampler, TorchAllocator, Unavailable


def for_process(pid: int | None, *, here: bool = False) -> list[Sampler]:
    """Return the samplers for a server: its process tree, and every NVIDIA card of this machine.

    Args:
        pid: The server's process on this machine; ``None``: it runs elsewhere, or cannot be seen.
        here: Whether it runs on this machine although its process cannot be seen, as a service of another
            user's does: then the cards are read whole, whoever holds what is on them.
    """
    if pid is None and not here:
        return [Unavailable("the endpoint runs elsewhere: its memory cannot be seen from here")]
    count = device_count()
    if pid is None:
        shown = (
            "of the cards, all that is in use is shown, whoever holds it"
            if count
            else "there is no card to read"
        )
        why = f"the server runs on this machine, and its process cannot be seen (another user's, or in a container?): {shown}"
        return [Unavailable(why), *(NvmlDevice(index) for index in range(count))]
    cards: list[Sampler] = []
    for index in range(count):
        cards += [NvmlDevice(index), NvmlProcess(pid, index)]
    return [ProcessTree(pid), *cards]


def for_server(base_url: str, embedded_pid: int | None = None) -> list[Sampler]:
    """Return the samplers for whatever serves a URL: its process, where it is one of this machine.

    A local server whose process cannot be seen (another user's, or in a container) still shows on the cards.

    Args:
        base_url: Where it answers.
        embedded_pid: The process of kvlab's own server, if that is it.
    """
    return for_process(server_pid(base_url, embedded_pid), here=is_local(base_url))


def server_pid(base_url: str, embedded_pid: int | None = None) -> int | None:
    """Return the process that serves a URL; ``None``: it runs elsewhere, or cannot be seen."""
    if embedded_pid is not None:
        return embedded_pid
    return listener_pid(_port(base_url)) if is_local(base_url) else None


def is_local(base_url: str) -> bool:
    """Return whether a URL's host is this machine, by name or by one of its addresses."""
    host = urlsplit(base_url).hostname or ""
    if host in ("localhost", "::1", "0.0.0.0") or host.startswith("127."):  # noqa: S104 - looked at, not bound
        return True
    return any(host == found.address for each in psutil.net_if_addrs().values() for found in each)


def _port(base_url: str) -> int:
    url = urlsplit(base_url)
    return url.port or (443 if url.scheme == "https" else 80)


def for_this_process() -> list[Sampler]:
    """Return the samplers for an engine inside this process, with torch's allocator where it has a device."""
    torch = TorchAllocator()
    return [*for_process(os.getpid()), *([] if torch.reason else [torch])]


def listener_pid(port: int) -> int | None:
    """Return the process that listens on a TCP port of this machine; ``None`` where that cannot be seen."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return None
    for each in connections:
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid:
            return int(each.pid)
    return None
