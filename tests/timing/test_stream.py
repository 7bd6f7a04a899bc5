import json
import random

import pytest

from kvlab.timing.stream import Event, dig, read_stream


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


@pytest.mark.parametrize(
    ("chunk", "why"),
    [
        ({"choices": [None]}, "a choice"),
        ({"choices": {"0": 1}}, "choices"),
        ({"choices": [{"delta": "A"}]}, "delta"),
        ({"choices": [{"delta": {"content": ["A"]}}]}, "content"),
        ({"choices": [{"text": 5}]}, "text"),
        ({"choices": [{"delta": {"reasoning": {"a": 1}}}]}, "reasoning"),
        ({"choices": [{"delta": {"content": "A"}, "finish_reason": 7}]}, "finish_reason"),
        ([], "chunk"),
        (3, "chunk"),
    ],
)
def test_a_malformed_chunk_is_an_error_with_its_reason(chunk, why):
    generation = read_stream([chat({"content": "A"}, 1), Event(2, json.dumps(chunk)), Event(3, "[DONE]")])
    assert "malformed" in generation.error
    assert why in generation.error


def test_what_no_json_may_hold_or_no_parser_can_take_is_no_json():
    for data in ("NaN", '{"usage": {"a": -Infinity}}', '{"usage": {"a": 1e999}}', "[" * 100_000):
        assert "not JSON" in read_stream([Event(1, data)]).error


def test_half_a_character_is_replaced_everywhere():
    chunks = [
        r'{"choices": [{"delta": {"content": "a\ud83d", "reasoning": "\uDC00"}, "finish_reason": "\ud800"}]}',
        r'{"usage": {"\ud800": ["\udfff"]}, "kv": "x\ud800"}',
        r'{"error": {"message": "\ud800"}}',
    ]
    generation = read_stream([Event(1, chunk) for chunk in chunks], "kv", "kv")
    assert (generation.text, generation.reasoning, generation.finish_reason) == (
        "a\ufffd",
        "\ufffd",
        "\ufffd",
    )
    assert (generation.usage, generation.error) == ({"\ufffd": ["\ufffd"]}, "\ufffd")
    assert (generation.field_value, generation.kept_value) == ("x\ufffd", "x\ufffd")


def test_a_whole_character_of_two_halves_is_kept():
    stream = [Event(1, r'{"choices": [{"delta": {"content": "\ud83d\ude00"}}]}')]
    assert read_stream(stream).text == "\U0001f600"


def test_whatever_json_comes_nothing_is_raised_and_all_of_it_can_be_stored():
    """Seeded, so that a failure comes again. A known chunk has one of its values replaced by anything."""
    draw = random.Random(5)
    for _ in range(3000):
        stream = [Event(number, _odd(draw)) for number in range(draw.randrange(1, 5))]
        generation = read_stream(stream, "kv.0", "kv.a")
        stored = [
            generation.text,
            generation.reasoning,
            generation.error or "",
            generation.finish_reason or "",
        ]
        assert all(isinstance(text, str) and text.encode() is not None for text in stored)
        json.dumps(
            [generation.usage, generation.field_value, generation.kept_value], ensure_ascii=False
        ).encode()


def _odd(draw):
    """A chunk as a server sends it, but for one value somewhere in it; now and then cut off."""
    chunk = {
        "choices": [{"delta": {"role": "assistant", "content": "a", "reasoning": "", "tool_calls": []},
                     "text": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}},
        "error": None, "kv": [1],
    }  # fmt: skip
    whole = place = {"chunk": chunk}
    name = "chunk"
    while draw.random() < 0.8 and isinstance(place[name], (dict, list)) and place[name]:
        place = place[name]
        name = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
    place[name] = _anything(draw)
    text = json.dumps(whole["chunk"])
    return text if draw.random() < 0.9 else text[: draw.randrange(len(text) + 1)]


def _anything(draw, depth=0):
    kinds = [None, True, 0, -1, 10**40, 1.5, "", "a", "\ud800", "\udc00b", "\x00", [], {}]
    if depth > 3 or draw.random() < 0.6:
        return draw.choice(kinds)
    inner = [_anything(draw, depth + 1) for _ in range(draw.randrange(3))]
    return inner if draw.random() < 0.5 else {f"k{number}": value for number, value in enumerate(inner)}


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
