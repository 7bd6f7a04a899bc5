# ruff: noqa: N802 - the names are NVML's
"""A recording of `pynvml`: the calls that kvlab makes, answered from a script, moment by moment.

The shapes are NVML's: memory in bytes, a process whose memory is not known has ``None``, and every
failure is an ``NVMLError``.
"""

from types import SimpleNamespace


class NVMLError(Exception):
    pass


class RecordedNvml:
    """``frames`` holds one entry a read: ``(used_bytes, {pid: bytes or None})`` or an error's text."""

    NVMLError = NVMLError

    def __init__(self, frames, *, total_bytes=80 * 2**30, devices=1, driver=True):
        self.frames, self.total_bytes, self.devices, self.driver = list(frames), total_bytes, devices, driver
        self.opened = 0
        self._at = 0

    def nvmlInit(self):
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.opened += 1

    def nvmlShutdown(self):
        self.opened -= 1

    def nvmlDeviceGetCount(self):
        return self.devices

    def nvmlDeviceGetHandleByIndex(self, index):
        if index >= self.devices:
            raise NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetMemoryInfo(self, handle):
        used, _ = self._next()
        return SimpleNamespace(total=self.total_bytes, used=used, free=self.total_bytes - used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        _, processes = self._next()
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes.items()]

    def _next(self):
        frame = self.frames[min(self._at, len(self.frames) - 1)]
        self._at += 1
        if isinstance(frame, str):
            raise NVMLError(frame)
        return frame
