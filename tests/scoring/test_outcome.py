import httpx
import pytest

from kvlab.scoring import classify, classify_error, score
from kvlab.scoring.outcome import repetition
from kvlab.taxonomy import ErrorType


def label(text, finish_reason="stop", **more):
    outcome = classify(text, finish_reason, **more)
    return outcome and outcome.error_type.value


@pytest.mark.parametrize(
    ("text", "finish", "want"),
    [
        ("Paris", "stop", None),
        (" \n\t", "stop", "EMPTY_OUTPUT"),
        ("", "length", "EMPTY_OUTPUT"),
        ("Paris is the", "length", "TRUNCATED"),
        ("Paris", "content_filter", "REFUSAL"),
        ("Paris", "weird", "UNKNOWN_FAILURE"),
        # other servers' words for the same
        *(("Paris", reason, None) for reason in ("STOP", "COMPLETE", "eos", "Eos_Token", "end_turn")),
        *(("Paris is the", reason, "TRUNCATED") for reason in ("MAX_TOKENS", "model_length", "LENGTH")),
        *(("Paris", reason, "REFUSAL") for reason in ("SAFETY", "RECITATION", "Content_Filter")),
        *(
            ("Paris", reason, "UNKNOWN_FAILURE")
            for reason in ("abort", "error", "insufficient_system_resource")
        ),
        ("Paris", None, "UNKNOWN_FAILURE"),
        ("I'm sorry, but I can't help with that.", "stop", "REFUSAL"),
        ("As an AI language model, I cannot assist with this.", "stop", "REFUSAL"),
        ("对不起，我无法回答这个问题。", "stop", "REFUSAL"),
        # These are answers: about the text, or by someone in it.
        ("I cannot find the answer in the text.", "stop", None),
        ("He said: I can't help it.", "stop", None),
        ("无法确定", "stop", None),
        ("Sorry", "stop", None),
        ("unanswerable", "stop", None),
    ],
)
def test_what_can_be_seen_is_named_and_nothing_else(text, finish, want):
    assert label(text, finish) == want


def test_an_engine_that_reads_less_than_was_sent_is_named():
    assert label("x", sent_tokens=100, seen_tokens=64) == "INPUT_TRUNCATED"
    assert label("x", sent_tokens=100, seen_tokens=100) is None
    assert label("x", sent_tokens=100, seen_tokens=None) is None


def test_a_wrong_form_is_named_only_in_answers_that_ended_by_themselves():
    assert label("no idea", answer_pattern=r"\d") == "FORMAT_ERROR"
    assert label("the code 5", answer_pattern=r"\d") is None
    assert label("the code is", "length", answer_pattern=r"\d") == "TRUNCATED"


def test_repetition_needs_many_repeats_at_the_end():
    assert repetition([1, 2, 3] * 6) is not None
    assert repetition([9] * 10 + [1, 2] * 8) is not None
    assert repetition([9] * 15) is None  # too few tokens to say so
    assert repetition(list(range(40)) + [1, 2] * 8) is None  # less than half
    assert repetition([1, 2, 3] * 6 + [4]) is None  # ended otherwise
    assert repetition([]) is None
    assert label("the sea " * 12, "length") == "DEGENERATE_REPETITION"
    assert label("1 2 3", "length", token_ids=[5] * 20) == "DEGENERATE_REPETITION"


def test_a_label_is_no_score():
    text = " 48213. The code is"
    assert label(text, "length") == "TRUNCATED"
    assert score(text, ["48213"]).contains == 1


@pytest.mark.parametrize(
    ("error", "status", "want"),
    [
        (None, 429, "RATE_LIMITED"),
        (None, 504, "TIMEOUT"),
        (None, 503, "ENGINE_ERROR"),
        (None, 400, "REFUSED_INPUT"),
        ("CUDA out of memory. Tried to allocate", 500, "OUT_OF_MEMORY"),
        (MemoryError(), None, "OUT_OF_MEMORY"),
        (TimeoutError("late"), None, "TIMEOUT"),
        (httpx.ReadTimeout("late"), None, "TIMEOUT"),
        (httpx.ConnectError("refused"), None, "ENGINE_ERROR"),
        (ConnectionResetError(), None, "ENGINE_ERROR"),
        ("Rate limit reached for requests", None, "RATE_LIMITED"),
        ("prompt has 500 tokens, 429 of them new", None, "UNKNOWN_FAILURE"),
        (ValueError("odd"), None, "UNKNOWN_FAILURE"),
        (None, None, "UNKNOWN_FAILURE"),
    ],
)
def test_failed_requests(error, status, want):
    assert classify_error(error, status).error_type.value == want


def test_every_label_of_the_taxonomy_is_kept():
    # Databases and reports hold them.
    assert {kind.value for kind in ErrorType} == {
        "RATE_LIMITED", "TIMEOUT", "ENGINE_ERROR", "OUT_OF_MEMORY", "REFUSED_INPUT", "CLIENT_STALLED", "EMPTY_OUTPUT",
        "INPUT_TRUNCATED", "REFUSAL", "DEGENERATE_REPETITION", "TRUNCATED", "FORMAT_ERROR", "UNKNOWN_FAILURE",
    }  # fmt: skip
