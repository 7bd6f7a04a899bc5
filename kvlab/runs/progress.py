"""Progress: one bar with the time left where a person watches, one line a step where a log is kept."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

from kvlab.escape import terminal

T = TypeVar("T")

_WIDTH = 40
#: Steps that went wrong are kept below the bar; of many, the first.
_MOST_KEPT = 20
_MOST_CHARACTERS = 400


class _Out(Protocol):
    """Where progress is shown."""

    def note(self, line: str) -> None:
        """Say something of the step under way."""

    def step(self, line: str, *, keep: bool) -> None:
        """Say that one more step is done."""

    def end(self) -> None:
        """Say that no more will come, for now."""


class Steps:
    """Counts steps, and says after each how long the rest will take.

    Attributes:
        total: How many there are.
        noun: What one is called.
        done: How many are done.
    """

    def __init__(self, total: int, noun: str) -> None:
        self.total, self.noun = total, noun
        self.done = 0
        self.start = time.monotonic()
        self._out = _out(self)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; whatever ends that, the bar says so."""
        try:
            yield from items
        finally:
            self._out.end()

    def note(self, line: str) -> None:
        """Say something about the step under way."""
        self._out.note(_cut(line))

    def step(self, line: str, *, keep: bool = False) -> None:
        """Say that one more is done; beside a bar only the last line is shown, but for those to ``keep``."""
        self.done += 1
        self._out.step(_cut(line), keep=keep)

    def stop(self) -> None:
        """Say that it was interrupted."""
        self._out.end()

    @property
    def left_s(self) -> float | None:
        """How long the rest takes at the mean pace so far, in seconds; ``None``: none is done yet."""
        if not self.done:
            return None
        return (time.monotonic() - self.start) / self.done * (self.total - self.done)


class _Lines:
    """A log: one line a step."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def note(self, line: str) -> None:
        print(f"    {line}", flush=True)

    def step(self, line: str, *, keep: bool) -> None:
        steps, left = self._steps, self._steps.left_s
        rest = f" · {left:.0f} s left" if left is not None and steps.done < steps.total else ""
        print(f"[{steps.done}/{steps.total}] {line}{rest}", flush=True)

    def end(self) -> None:
        pass


class _Bar:
    """A terminal: one bar, which the next state overwrites."""

    def __init__(self, steps: Steps) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(total=steps.total, unit=f" {steps.noun}", file=sys.stderr, dynamic_ncols=True)

    def note(self, line: str) -> None:
        self._bar.set_postfix_str(line)

    def step(self, line: str, *, keep: bool) -> None:
        if keep:
            self._bar.write(line, file=sys.stderr)
        self._bar.set_postfix_str(line, refresh=False)
        self._bar.update()

    def end(self) -> None:
        self._bar.close()


class _Cell:
    """A notebook: one output, which is updated in place, and of which its last state is stored.

    Text, not a widget: a stored widget shows nothing without its kernel, and no page on GitHub shows one.
    """

    def __init__(self, steps: Steps) -> None:
        self._steps, self._line = steps, ""
        self._kept: list[str] = []
        self._left_out = 0
        self._over = False
        from IPython.display import display

        self._handle: Any = display(self, display_id=True)  # type: ignore[no-untyped-call]

    def note(self, line: str) -> None:
        self._line = line
        self._show()

    def step(self, line: str, *, keep: bool) -> None:
        self._line = line
        if keep and len(self._kept) < _MOST_KEPT:
            self._kept.append(line)
        elif keep:
            self._left_out += 1
        self._show()

    def end(self) -> None:
        if not self._over:
            self._over = True
            self._show()

    def _show(self) -> None:
        self._handle.update(self)

    def __repr__(self) -> str:
        steps = self._steps
        filled = _WIDTH * steps.done // max(1, steps.total)
        lines = [
            f"{'█' * filled}{'░' * (_WIDTH - filled)} {steps.done} of {steps.total} {steps.noun}s · {self._when()}"
        ]
        if self._line and not self._over:
            lines.append(self._line)
        lines += self._kept
        if self._left_out:
            lines.append(f"and {self._left_out} more that failed")
        return "\n".join(lines)

    def _when(self) -> str:
        steps, took = self._steps, f"{time.monotonic() - self._steps.start:.0f} s"
        if steps.done >= steps.total:
            return f"done in {took}"
        if self._over:
            return f"stopped after {took}; what is done is stored: run this cell again to go on"
        return "starting" if steps.left_s is None else f"{steps.left_s:.0f} s left"


def _out(steps: Steps) -> _Out:
    kind = os.environ.get("KVLAB_PROGRESS")
    if kind == "lines" or "KVLAB_HEADLESS" in os.environ:
        return _Lines(steps)
    if in_kernel():
        return _Lines(steps) if _under_papermill() else _Cell(steps)
    return _Bar(steps) if sys.stderr.isatty() else _Lines(steps)


def in_kernel() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


def _under_papermill() -> bool:
    """Whether papermill has started this kernel: its log shows lines, and no display that is updated."""
    import psutil

    try:
        command = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return False
    return any(os.path.basename(word).startswith("papermill") for word in command[:4])  # noqa: PTH119


def _cut(line: str) -> str:
    text = terminal(line)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
