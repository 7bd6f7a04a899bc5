"""Progress: a bar with an ETA where a person watches, one line a step where a log is kept."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from tqdm.auto import tqdm

from kvlab.escape import terminal

T = TypeVar("T")


def is_watched() -> bool:
    """Whether this kernel belongs to JupyterLab or Notebook, and not to papermill, nbconvert or nbval."""
    return "JPY_SESSION_NAME" in os.environ and "KVLAB_HEADLESS" not in os.environ


class Steps:
    """Counts steps, and says after each how long the rest will take."""

    def __init__(self, total: int, noun: str) -> None:
        self.total, self.noun = total, noun
        self.done = 0
        self._start = time.monotonic()
        self._bar: Any = tqdm(total=total, unit=noun) if is_watched() else None

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items, inside a bar where there is one."""
        scope: AbstractContextManager[Any] = nullcontext() if self._bar is None else self._bar
        with scope:
            yield from items

    def note(self, line: str) -> None:
        """Say something about the step under way."""
        if self._bar is not None:
            self._bar.set_postfix_str(terminal(line))
        else:
            print(terminal(f"    {line}"), flush=True)

    def step(self, line: str, *, keep: bool = False) -> None:
        """Say that one more is done; beside a bar only the last line is shown, but for those to ``keep``."""
        self.done += 1
        left = (time.monotonic() - self._start) / self.done * (self.total - self.done)
        text = terminal(f"[{self.done}/{self.total}] {line}")
        if self._bar is not None:
            if keep:
                self._bar.write(text)
            self._bar.set_postfix_str(line, refresh=False)
            self._bar.update()
        else:
            rest = f" · {left:.0f} s left" if self.done < self.total else ""
            print(text + rest, flush=True)
