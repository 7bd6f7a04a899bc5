"""Which samplers can see an engine's memory."""

import os
from urllib.parse import urlsplit

import psutil

from kvlab.vram.nvml import NvmlDevice, NvmlProcess, device_count
from kvlab.vram.samplers import ProcessTree, Sampler, TorchAllocator, Unavailable

#: Programs that pass requests on, by the name of their process.
_PROXIES = frozenset(
    [
        "caddy",
        "docker-proxy",
        "envoy",
        "haproxy",
        "httpd",
        "kubectl",
        "litellm",
        "nginx",
        "rootlessport",
        "socat",
        "ssh",
        "sshd",
        "traefik",
    ]
)

#: No program that only passes requests on holds so much.
_ENGINE_BYTES = 3 * 2**29


def for_process(pid: int | None, *, here: bool = False, why: str | None = None) -> list[Sampler]:
    """Return the samplers for a server: its process tree, and every NVIDIA card of this machine.

    Args:
        pid: The server's process on this machine; ``None``: it runs elsewhere, or cannot be seen.
        here: Whether it runs on this machine although its process cannot be seen, as a service of another
            user's does: then the cards are read whole, whoever holds what is on them.
        why: Why its process cannot be told, where that is known.
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
        why = why or (
            "the server runs on this machine, and its process cannot be seen (another user's, or in a container?)"
        )
        return [Unavailable(f"{why}: {shown}"), *(NvmlDevice(index) for index in range(count))]
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
    pid, why = server_process(base_url, embedded_pid)
    return for_process(pid, here=is_local(base_url), why=why)


def server_pid(base_url: str, embedded_pid: int | None = None) -> int | None:
    """Return the process that serves a URL; ``None``: it runs elsewhere, or cannot be seen."""
    return server_process(base_url, embedded_pid)[0]


def server_process(base_url: str, embedded_pid: int | None = None) -> tuple[int | None, str | None]:
    """Return the process that serves a URL, and why there is none, where that is known.

    What listens at a port may only pass requests on: a proxy's memory is not the server's.
    """
    if embedded_pid is not None:
        return embedded_pid, None
    pid = listener_pid(_port(base_url)) if is_local(base_url) else None
    if pid is None:
        return None, None
    onward = passes_on(pid)
    return (pid, None) if onward is None else (None, onward)


def passes_on(pid: int) -> str | None:
    """Return why a listening process is taken for a proxy; ``None``: nothing speaks for it.

    It is one by its name, or by an open connection of its own to a server outside its process tree.
    """
    try:
        process = psutil.Process(pid)
        name = process.name()
        if name in _PROXIES:
            return f"what listens there is {name} (process {pid}), which passes requests on: its memory is not the server's"
        family = [process, *process.children(recursive=True)]
        found = [each for member in family for each in member.net_connections(kind="tcp")]
        listening = {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
        own = {each.laddr for each in found}
        if sum(member.memory_info().rss for member in family) > _ENGINE_BYTES:
            return None  # it holds a model, whatever else it is connected to (a store of KV blocks, say)
    except psutil.Error:
        return None
    for each in found:
        outward = each.status == psutil.CONN_ESTABLISHED and each.laddr.port not in listening
        if outward and each.raddr not in own:
            where = f"{each.raddr.ip}:{each.raddr.port}"
            return f"what listens there is {name} (process {pid}), which is connected to {where}: if it passes requests on, its memory is not the server's"
    return None


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
