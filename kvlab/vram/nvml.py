"""NVIDIA cards through NVML (`pynvml` of nvidia-ml-py): a whole device, or the processes of a tree on it."""

import contextlib
from typing import Any

import psutil

from kvlab.vram.samplers import Reading


class _Nvml:
    """An opened NVML and the handle of one device; closed, a reason is left."""

    def __init__(self, index: int, library: Any = None) -> None:  # noqa: ANN401 - the pynvml module
        self.reason: str | None = None
        self.index = index
        self._handle: Any = None
        self._library: Any = library
        if library is None:
            import pynvml  # a hundred milliseconds, and only where a card is asked for

            self._library = pynvml
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            self.reason = f"no NVIDIA driver answers ({error})"
            return
        try:
            self._handle = self._library.nvmlDeviceGetHandleByIndex(index)
        except self._library.NVMLError as error:
            self.reason = f"there is no NVIDIA device {index} ({error})"
            self._shutdown()

    def ask(self, function: str) -> Any:  # noqa: ANN401 - what NVML gives
        """Call a function of the library on the device; ``None``, with a reason, where it fails."""
        if self._handle is None:
            return None
        try:
            answer = getattr(self._library, function)(self._handle)
        except self._library.NVMLError as error:
            self.reason = f"{function} failed ({error})"
            return None
        self.reason = None
        return answer

    def _shutdown(self) -> None:
        with contextlib.suppress(self._library.NVMLError):
            self._library.nvmlShutdown()

    def close(self) -> None:
        if self._handle is not None:
            self._handle, self.reason = None, "closed"
            self._shutdown()


class NvmlDevice:
    """All memory in use on one device, whoever holds it (``nvmlDeviceGetMemoryInfo``).

    Args:
        index: NVML's number of the device, which `CUDA_VISIBLE_DEVICES` does not change.
        library: The `pynvml` module, or a recording of it.
    """

    def __init__(self, index: int = 0, library: Any = None) -> None:  # noqa: ANN401 - the pynvml module
        self.name = f"NVML device {index}"
        self._nvml = _Nvml(index, library)

    @property
    def reason(self) -> str | None:
        """Why there is nothing to read."""
        return self._nvml.reason

    def read(self) -> list[Reading]:
        """Return one reading, ``nvml_device:<index>``, with the device's size."""
        info = self._nvml.ask("nvmlDeviceGetMemoryInfo")
        if info is None:
            return []
        return [Reading(f"nvml_device:{self._nvml.index}", int(info.used), int(info.total))]

    def close(self) -> None:
        """Shut NVML down."""
        self._nvml.close()


class NvmlProcess:
    """What a process tree holds on one device (``nvmlDeviceGetComputeRunningProcesses``).

    NVML knows the machine's own process numbers: inside a container they may not be ours, and then,
    as under MIG or on Windows, nothing can be said. That is a reason, not 0 bytes.

    Args:
        pid: Root of the tree.
        index: NVML's number of the device.
        library: The `pynvml` module, or a recording of it.
    """

    def __init__(self, pid: int, index: int = 0, library: Any = None) -> None:  # noqa: ANN401 - the pynvml module
        self.name = f"NVML device {index}, process {pid} and its descendants"
        self._pid, self._why = pid, None
        self._nvml = _Nvml(index, library)

    _why: str | None

    @property
    def reason(self) -> str | None:
        """Why there is nothing to read."""
        return self._nvml.reason or self._why

    def read(self) -> list[Reading]:
        """Return one reading, ``nvml_process:<index>``."""
        running = self._nvml.ask("nvmlDeviceGetComputeRunningProcesses")
        if running is None:
            return []
        tree = self._tree()
        mine = [process for process in running if process.pid in tree]
        if not mine:
            self._why = f"NVML lists {len(running)} processes on the device, none of this tree"
            return []
        if any(process.usedGpuMemory is None for process in mine):
            self._why = "NVML lists the process, but not its memory"
            return []
        self._why = None
        used = sum(int(process.usedGpuMemory) for process in mine)
        return [Reading(f"nvml_process:{self._nvml.index}", used)]

    def _tree(self) -> set[int]:
        try:
            root = psutil.Process(self._pid)
            return {self._pid, *(child.pid for child in root.children(recursive=True))}
        except psutil.Error:
            return {self._pid}

    def close(self) -> None:
        """Shut NVML down."""
        self._nvml.close()


def device_count(library: Any = None) -> int:  # noqa: ANN401 - the pynvml module
    """Return how many devices NVML sees; 0 where no driver answers."""
    if library is None:
        import pynvml

        library = pynvml
    try:
        library.nvmlInit()
    except library.NVMLError:
        return 0
    try:
        return int(library.nvmlDeviceGetCount())
    except library.NVMLError:
        return 0
    finally:
        with contextlib.suppress(library.NVMLError):
            library.nvmlShutdown()
