import base64
import json
from urllib.parse import quote

import pytest

from kvlab.redact import MARK, PIECE, Redactor

KEY = "sk-CANARY/+0123456789abcdef=="


def pieces(text, key=KEY, size=PIECE):
    return [key[i : i + size] for i in range(len(key) - size + 1) if key[i : i + size] in text]


@pytest.mark.parametrize(
    "form",
    [
        KEY, json.dumps({"key": KEY}), quote(KEY), quote(KEY, safe=""), quote(KEY, safe="").lower().replace("sk-canary", "sk-CANARY"),
        *(base64.b64encode((before + KEY).encode()).decode() for before in ("", "u:", "us:", "Bearer ")),
        base64.urlsafe_b64encode(f"x{KEY}".encode()).decode(),
    ],
)  # fmt: skip
def test_every_form_of_a_key_goes(form):
    found = Redactor([KEY])(f"wrong key {form}, sorry")
    assert MARK in found
    assert not pieces(found)
    core = base64.b64encode(KEY.encode()).decode()[4:24]
    assert core not in found


@pytest.mark.parametrize("size", range(PIECE, len(KEY)))
def test_every_piece_of_a_long_key_goes(size):
    for start in range(len(KEY) - size + 1):
        found = Redactor([KEY])(f"key ({KEY[start : start + size]}) is cut")
        assert not pieces(found), found
        assert found.startswith("key (")
        assert found.endswith(") is cut")


@pytest.mark.parametrize("size", range(1, 40))
def test_redacting_and_then_cutting_leaves_nothing(size):
    text = Redactor([KEY])("x" * 20 + KEY)[: 20 + size]
    assert not pieces(text, size=4)


@pytest.mark.parametrize("after", ["", "…", "...", "'", '…")'])
@pytest.mark.parametrize("size", range(4, len(KEY)))
def test_a_key_that_somebody_else_has_cut_goes_too(size, after):
    found = Redactor([KEY])("x" * 20 + KEY[:size] + after)
    assert not pieces(found, size=4)
    assert found.endswith(after)


@pytest.mark.parametrize("key", ["abc-123", "abcd", "s3cret!"])
def test_a_short_key_goes_as_a_word(key):
    redact = Redactor([key])
    assert key not in redact(f"Bearer {key} is wrong, '{key}' too")
    assert redact(f"x{key}x1" if key == "abcd" else "abc-1234 tokens") == (
        f"x{key}x1" if key == "abcd" else "abc-1234 tokens"
    )


def test_a_tiny_key_goes_where_it_is_called_one():
    assert Redactor(["7"])('got 7 of 17 tokens; "api_key": "7", Bearer 7') == (
        f'got 7 of 17 tokens; "api_key": "{MARK}", Bearer {MARK}'
    )


@pytest.mark.parametrize("word", ["EMPTY", "none", "dummy", "", " "])
def test_a_placeholder_is_no_secret(word):
    assert (
        Redactor([word])("EMPTY_OUTPUT: none of the dummy tokens") == "EMPTY_OUTPUT: none of the dummy tokens"
    )


def test_usage_and_answers_are_searched_through():
    found = Redactor([KEY]).value({"a": [KEY, 5, None, {KEY: f"x {KEY[:12]}"}], "n": 1.5})
    assert "CANARY" not in json.dumps(found)
    assert found["n"] == 1.5
    assert found["a"][1:3] == [5, None]


def test_it_shows_nothing_of_itself():
    assert "CANARY" not in repr(Redactor([KEY]))
