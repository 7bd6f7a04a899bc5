import json

import pytest

from kvlab.timing.sse import Event
from kvlab.timing.stream import dig, read_stream


def chat(delta, t_ns=0, **choice):
    return Event(
        t_ns, json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}]})
    )


def test_role_empty_and_usage_chunks_are_not_tokens():
    stream = [
        chat({"role": "assistant", "content": ""}, 1),
        chat({"content": ""}, 2),
        chat({"reasoning": "hm"}, 3),
        chat({"content": "A"}, 4),
        chat({"content": "B"}, 5, finish_reason="stop"),
        Event(6, json.dumps({"choices": [], "usage": {"prompt_tokens": 3}})),
        Event(7, "[DONE]"),
    ]
    generation = read_stream(stream)
    assert generation.token_ns == [3, 4, 5]
    assert generation.first_content_ns == 4
    assert (generation.text, generation.reasoning, generation.finish_reason) == ("AB", "hm", "stop")
    assert (generation.usage, generation.ended, generation.error) == ({"prompt_tokens": 3}, True, None)


def test_a_tool_call_is_a_token_and_no_content():
    generation = read_stream([chat({"tool_calls": [{"index": 0}]}, 5, finish_reason="tool_calls")])
    assert (generation.token_ns, generation.first_content_ns) == ([5], None)


def test_completions_chunks():
    generation = read_stream([Event(1, json.dumps({"choices": [{"text": "x", "finish_reason": "length"}]}))])
    assert (generation.text, generation.token_ns, generation.finish_reason) == ("x", [1], "length")


@pytest.mark.parametrize(
    ("data", "error"),
    [('{"error": {"message": "boom"}}', "boom"), ('{"error": "bad"}', "bad"), ('{"choices": [', "not JSON")],
)
def test_errors_inside_the_stream(data, error):
    assert error in read_stream([chat({"content": "A"}), Event(1, data)]).error


def test_a_silent_end_is_not_an_end():
    assert not read_stream([chat({"content": "A"}, 1)]).ended


def test_the_servers_own_field_is_read_where_it_last_was():
    stream = [Event(1, '{"kv": {"reused": [3]}}'), Event(2, '{"kv": {"reused": [5]}}'), Event(3, "{}")]
    assert read_stream(stream, "kv.reused.0").field_value == 5


@pytest.mark.parametrize(
    ("path", "value"), [("a.b", 1), ("a.c", None), ("l.1", 3), ("l.9", None), ("a.b.c", None)]
)
def test_dig(path, value):
    assert dig({"a": {"b": 1}, "l": [2, 3]}, path) == value
