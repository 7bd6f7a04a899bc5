"""Prompt lengths where nothing tokenizes: the estimate is corrected on the document itself."""

import re

import pytest

from kvlab.endpoints.counter import CalibratedCounter
from kvlab.prompts import exact, manual

NAMES = exact.Names("tokens", "sections")


def true_count(prompt):
    """A tokenizer in which digits and markers cost more than prose."""
    text = " ".join(message["content"] for message in prompt["messages"])
    return 12 + len(re.findall(r"[A-Za-z]{1,7}|\d|[^\w\s]", text))


def chat(text):
    return {"messages": [{"role": "user", "content": text}]}


def build(mark):
    return lambda cut: manual.build(mark, cut, api="chat", question=manual.QUESTION, marker_role="system")


@pytest.fixture
def counter():
    prose = "A prefix cache keeps the keys and values of tokens that it has seen before . "
    return CalibratedCounter.fit((chat(prose * 10), chat(prose * 40)), lambda p: (true_count(p), 0))


def off(counter, target, mark="0f3a9c1b2d4e5f60"):
    fitted = exact.fit(build(mark), manual.manual(17, 200, mark), target, counter, NAMES)
    assert not fitted.exact
    return abs(true_count(fitted.prompt) - target) / target


def test_a_line_through_other_prose_is_off_and_the_document_corrects_it(counter):
    targets = [512, 1024, 2048]
    before = max(off(counter, target) for target in targets)
    mark = "1b2d4e5f600f3a9c"
    exact.calibrate(build(mark), manual.manual(17, 200, mark), targets, counter, NAMES)
    after = max(off(counter, target) for target in targets)
    assert before > 0.1
    assert after < 0.02
    assert 2 <= len(counter.seen) <= 8


def test_counts_that_are_none_of_a_whole_prompt_are_not_learned(counter):
    prompt = build("a" * 16)("some text " * 100)
    expected = counter(prompt)
    for tokens in (None, 0, expected // 4, expected * 5):
        assert not counter.observe(prompt, tokens)
    assert counter(prompt) == expected


def test_a_server_that_reports_only_what_it_computed_stops_the_correction(counter):
    counter.ask = lambda prompt: (3, None)
    exact.calibrate(build("b" * 16), manual.manual(17, 200, "b" * 16), [512], counter, NAMES)
    assert counter.seen == []


def test_how_far_a_prompt_is_off_is_returned():
    class Pairs:
        exact, source = True, "counts only even numbers"

        def __call__(self, prompt):
            return 2 * len(prompt["prompt"].split())

    fitted = exact.fit(lambda cut: {"prompt": cut}, "word " * 50, 31, Pairs(), NAMES)
    assert (Pairs()(fitted.prompt), fitted.off_tokens, fitted.exact) == (30, -1, True)
