"""Run a learner, which asks through a callback, from a generator that stores every answer before the next.

A learner is one function that calls a probe and waits. What measures is a generator whose caller stores
each request. So the learner runs in a thread of its own, which waits while its question is answered:
never do both run at once, and only the generator's side sees the engine and the database.
"""

import queue
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")
R = TypeVar("R")
Y = TypeVar("Y")


class AbandonedError(Exception):
    """The generator was closed: the learner ends where it is."""


@dataclass(frozen=True)
class _End:
    result: object = None
    error: BaseException | None = None


class Line(Generic[Q, A]):
    """What the learner's side has: a question, or a wait."""

    def __init__(self) -> None:
        self._questions: queue.Queue[Q | _End] = queue.Queue()
        self._answers: queue.Queue[A | BaseException] = queue.Queue()
        self._abandoned = threading.Event()

    def ask(self, question: Q) -> A:
        """Return the answer.

        Raises:
            AbandonedError: Nobody answers any more.
            BaseException: What was raised in place of an answer.
        """
        self._questions.put(question)
        answer = self._answers.get()
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than anybody wants the result.

        Raises:
            AbandonedError: Nobody does.
        """
        if self._abandoned.wait(max(0.0, seconds)):
            raise AbandonedError


def in_turns(
    learner: Callable[[Line[Q, A]], R], answer: Callable[[Q], Generator[Y, None, A | BaseException]]
) -> Generator[Y, None, R]:
    """Yield what answering the learner's questions yields, and return the learner's result.

    Args:
        learner: Asks through the line that it is given.
        answer: Answers one question; an exception that it *returns* is raised in the learner. One that it
            raises ends both.

    Raises:
        BaseException: What the learner raised.
    """
    line: Line[Q, A] = Line()

    def work() -> None:
        try:
            line._questions.put(_End(learner(line)))
        except BaseException as error:  # it is raised again on the other side
            line._questions.put(_End(error=error))

    thread = threading.Thread(target=work, name="learner", daemon=True)
    thread.start()
    try:
        while not isinstance(question := line._questions.get(), _End):
            line._answers.put((yield from answer(question)))
        if question.error is not None:
            raise question.error
        return question.result  # type: ignore[return-value]  # it is what the learner returned
    finally:
        line._abandoned.set()
        line._answers.put(AbandonedError())
        thread.join(timeout=10)
