import itertools
import re

import pytest

from kvlab.compression.datasets import Example, synthetic
from kvlab.compression.datasets.prose import prose, sentences
from kvlab.compression.datasets.retrieval import TASKS
from kvlab.compression.datasets.template import render, token_ids
from kvlab.errors import InputError


@pytest.mark.parametrize("task", TASKS)
def test_contexts_have_exactly_the_asked_length_and_hold_the_answers(tk, packaged, task):
    for tokenizer in (tk, packaged):
        for example in synthetic.examples([task], [260, 611], 2, tokenizer, seed=1):
            length = tokenizer.count(example.context)
            assert length in (260, 611)
            assert all(answer in example.context for answer in example.answers)
            assert not any(answer in example.question for answer in example.answers)
            assert re.search(example.meta["answer_pattern"], example.answers[0])


def test_in_the_prompt_the_context_keeps_its_length(packaged):
    rest = set()
    for example in synthetic.examples(["single_needle"], [300, 450], 2, packaged, seed=4):
        rendered = render(example, synthetic.TEMPLATE)
        with_context, _ = token_ids(rendered, packaged)
        rest.add(len(with_context) - packaged.count(example.context))
    assert len(rest) == 1


def test_every_needle_stands_between_whole_sentences(tk):
    for example in synthetic.examples(["multi_key"], [500], 3, tk, seed=2):
        needles = re.findall(r"The secret code of the [a-z]+ [a-z]+ is \d{5}\.", example.context)
        assert len(needles) == 4
        for needle in needles:
            before, _, after = example.context.partition(needle)
            assert not before or before.endswith(". ")
            assert not after or after[0] == " "


def test_depths_are_spread_and_true(tk):
    examples = list(synthetic.examples(["single_needle"], [900], 8, tk, seed=5))
    depths = sorted(example.meta["depths"][0] for example in examples)
    assert max(b - a for a, b in itertools.pairwise([0, *depths, 1])) < 0.3
    for example in examples:
        place = example.context.index("The secret code") / len(example.context)
        assert place == pytest.approx(example.meta["depths"][0], abs=0.06)


def test_examples_are_the_same_again_and_more_of_them_keep_the_first(tk):
    few = list(synthetic.examples(["single_needle", "multi_value"], [300], 2, tk, seed=9))
    more = list(synthetic.examples(["single_needle", "multi_value"], [300], 6, tk, seed=9))
    assert more[:2] == few
    assert len({example.example_id for example in more}) == 6
    other = list(synthetic.examples(["single_needle", "multi_value"], [300], 2, tk, seed=10))
    assert {example.example_id for example in other}.isdisjoint(example.example_id for example in more)


def test_a_chain_is_followed_and_the_decoy_is_not(tk):
    (example,) = synthetic.examples(["variable_tracking"], [500], 1, tk, seed=3)
    value = re.search(r"number (\d+)", example.question)[1]
    held = set(re.findall(rf"variable (\w+) is set to {value}", example.context))
    for _ in range(4):
        held |= {
            n for n, old in re.findall(r"(\w+) is set to the value of (\w+)", example.context) if old in held
        }
    assert held == set(example.answers)
    assert len(re.findall("variable", example.context)) == 8


def test_the_prose_is_varied_and_has_no_digits():
    text = prose(1, 20_000)
    assert not re.search(r"\d", text)
    drawn = list(itertools.islice(sentences(1), 300))
    assert len(set(drawn)) > 290


def test_lengths_without_room_and_unknown_tasks_are_refused(tk):
    with pytest.raises(InputError, match="lengths_tokens: 20 is below the"):
        list(synthetic.examples(["multi_key"], [20], 1, tk, seed=1))
    with pytest.raises(InputError, match="tasks: 'haiku'"):
        list(synthetic.examples(["haiku"], [300], 1, tk, seed=1))


def test_examples_survive_json(tk):
    (example,) = synthetic.examples(["multi_query"], [300], 1, tk, seed=1)
    assert Example.from_json(example.as_json()) == example
    for field, wrong in (("question", 3), ("answers", []), ("answers", "x"), ("meta", None)):
        with pytest.raises(InputError, match=f"example.{field}"):
            Example.from_json(example.as_json() | {field: wrong})


def test_an_example_scores_by_its_own_rules(tk):
    (example,) = synthetic.examples(["multi_value"], [300], 1, tk, seed=1)
    assert example.score(":\n1. " + example.answers[0]).contains == 0.25
    assert example.max_new_tokens == example.meta["max_new_tokens"] > 0


@pytest.mark.parametrize("form", [" \n{}", "The number is:\n{}", "Sure!\n\n{}.", "{}\nAnything else?"])
def test_the_whole_answer_to_a_single_needle_is_scored(tk, form):
    """RULER looks for the gold answer in all of the text."""
    (example,) = synthetic.examples(["single_needle"], [300], 1, tk, seed=1)
    assert example.score(form.format(example.answers[0])).contains == 1
    assert example.score(" \n0").contains == 0
