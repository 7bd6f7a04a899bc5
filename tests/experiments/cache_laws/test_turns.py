"""A learner that asks through a callback is run by a generator, and ends with it."""

import threading
import time

import pytest

from kvlab.experiments.cache_laws.turns import AbandonedError, in_turns


def answered(question):
    yield f"row {question}"
    return question + 1


def drained(made):
    rows = []
    while True:
        try:
            rows.append(next(made))
        except StopIteration as end:
            return rows, end.value


def learners():
    return [thread for thread in threading.enumerate() if thread.name == "learner"]


def test_every_question_is_a_row_before_the_next_is_asked():
    seen = []

    def learn(line):
        for n in (1, 5):
            seen.append(line.ask(n))
        return sum(seen)

    made = in_turns(learn, answered)
    assert next(made) == "row 1"
    assert seen == []
    assert drained(made) == (["row 5"], 8)
    assert seen == [2, 6]


def test_what_the_learner_raises_is_raised():
    def learn(line):
        raise ValueError("too short")

    with pytest.raises(ValueError, match="too short"):
        drained(in_turns(learn, answered))


def test_an_exception_in_place_of_an_answer_is_raised_in_the_learner():
    def refused(question):
        yield "row"
        return KeyError("no")

    def learn(line):
        try:
            line.ask(1)
        except KeyError:
            return "told"

    assert drained(in_turns(learn, refused)) == (["row"], "told")


@pytest.mark.parametrize("waits", [False, True])
def test_a_closed_generator_ends_its_learner(waits):
    ended = []

    def learn(line):
        try:
            line.ask(1)
            line.sleep(60) if waits else line.ask(2)
        except AbandonedError:
            ended.append(True)
            raise

    made = in_turns(learn, answered)
    next(made)
    if not waits:
        next(made)
    began = time.monotonic()
    made.close()
    assert time.monotonic() - began < 10
    assert not learners()
    assert ended == [True]


def test_an_error_of_the_answering_side_ends_both():
    def broken(question):
        yield "row"
        raise RuntimeError("the database is gone")

    with pytest.raises(RuntimeError, match="gone"):
        drained(in_turns(lambda line: line.ask(1), broken))
    assert not learners()
