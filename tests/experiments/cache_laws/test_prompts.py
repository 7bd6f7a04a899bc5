"""Prompts have the length that was asked for, and share what was asked for and nothing more."""

import itertools

import pytest

from kvlab.experiments.cache_laws.prompts import TokenPrompts, WordPrompts, one_token_words
from kvlab.laws.probe import PromptSpec

WORDS = tuple(f"w{n:03d}" for n in range(400))
MAKERS = [TokenPrompts(1000, 40_000), WordPrompts(WORDS)]


def parts(prompt):
    """The prompt as a list of tokens, or of words."""
    return prompt["prompt"] if "prompt" in prompt else prompt["messages"][0]["content"].split(" ")


def shared(first, second):
    pairs = zip(parts(first), parts(second), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


@pytest.mark.parametrize("maker", MAKERS)
def test_two_prompts_share_what_both_take_of_a_base_and_nothing_more(maker):
    specs = [
        PromptSpec(own, part, 0, tail)
        for tail, (own, part) in enumerate([(90, 40), (70, 64), (80, 0), (66, 65)])
    ]
    specs.append(PromptSpec(120, 120, 0))
    made = [maker(spec, "life") for spec in specs]
    assert [len(parts(prompt)) for prompt in made] == [spec.own_tokens for spec in specs]
    for (a, first), (b, second) in itertools.combinations(zip(specs, made, strict=True), 2):
        assert shared(first, second) == min(a.shared_tokens, b.shared_tokens)


@pytest.mark.parametrize("maker", MAKERS)
def test_no_two_bases_or_tails_begin_alike_and_equal_descriptions_are_equal_prompts(maker):
    firsts = [parts(maker(PromptSpec(3, 3, base), "life"))[0] for base in range(40)]
    firsts += [parts(maker(PromptSpec(3, 0, 0, tail), "life"))[0] for tail in range(40)]
    firsts += [parts(maker(PromptSpec(3, 0, 0, tail), "life", n))[0] for tail in range(10) for n in (1, 2, 3)]
    assert len(set(firsts)) == len(firsts)
    assert maker(PromptSpec(50, 20, 1, 2), "life") == maker(PromptSpec(50, 20, 1, 2), "life")


@pytest.mark.parametrize("maker", MAKERS)
def test_another_life_has_other_texts(maker):
    spec = PromptSpec(100, 100)
    first, second = (parts(maker(spec, life)) for life in ("one", "two"))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 10


@pytest.mark.parametrize("maker", MAKERS)
def test_more_texts_than_there_are_first_tokens_are_refused(maker):
    with pytest.raises(ValueError, match="cannot tell"):
        maker(PromptSpec(3, 0, 0, 10**6), "life")
    with pytest.raises(ValueError, match="cannot tell"):
        maker(PromptSpec(3, 3, 10**6), "life")


def counting(sizes, calls):
    def count(prompt):
        calls.append(prompt)
        return 7 + sum(sizes.get(word, 1) for word in parts(prompt))

    return count


def test_words_of_several_tokens_are_found_and_left_out():
    calls = []
    kept = one_token_words(WORDS, counting({"w010": 2, "w222": 3}, calls))
    assert kept == [word for word in WORDS if word not in ("w010", "w222")]
    assert len(calls) < 60


def test_counting_words_costs_no_more_than_its_bound():
    calls = []
    one_token_words(WORDS, counting(dict.fromkeys(WORDS, 2), calls))
    assert len(calls) <= 61


def test_a_server_that_does_not_count_gives_no_words():
    assert one_token_words(WORDS, lambda prompt: None) == []
