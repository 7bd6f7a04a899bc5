"""What is told of a trial before it is sent."""

import pytest

from kvlab.endpoints.counter import CalibratedCounter, ServerCounter
from kvlab.experiments.batch_benchmark.jobs import prefix_tokens
from kvlab.prompts.batch import Workload

ASKED = Workload("shared", "0123456789abcdef", "Section 1.")


class CharacterCounter(ServerCounter):
    """A server whose tokens are characters, as digits are for many models."""

    def tokens(self, prompt):
        return [ord(letter) for message in prompt["messages"] for letter in message["content"]]


COUNTER = CharacterCounter(None, "", "")


@pytest.mark.parametrize("size", [2, 9, 10, 11, 100, 1000, 1234])
def test_the_prefix_is_what_all_prompts_of_a_trial_share(size):
    prompts = [COUNTER.tokens({"messages": [ASKED.system(i), ASKED.question(i)]}) for i in range(size)]
    shared = next(i for i, column in enumerate(zip(*prompts, strict=False)) if len(set(column)) > 1)
    assert prefix_tokens(COUNTER, ASKED, size) == shared


def test_a_single_request_shares_with_the_one_that_would_follow_and_unseen_tokens_are_none():
    assert prefix_tokens(COUNTER, ASKED, 1) == prefix_tokens(COUNTER, ASKED, 2)
    assert prefix_tokens(CalibratedCounter(0.25, 10.0), ASKED, 100) is None
