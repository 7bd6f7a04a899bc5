import pytest

from kvlab.endpoints.models import another


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("m", "m"),
        ("Qwen/Qwen2.5-7B", "qwen2.5-7b"),
        ("/models/llama-3.gguf", "llama-3"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("llama3", "llama3:latest"),
        ("llama3:q4_0", "llama3"),
        ("openai/gpt-4o", "gpt-4o"),
        ("m", None),
        ("", "m"),
        ("m@abcdef1234", "m"),
    ],
)
def test_names_of_one_model(asked, answered):
    assert another(asked, answered) is None


@pytest.mark.parametrize(
    ("asked", "answered"),
    [("gpt-4o", "gpt-4o-mini"), ("llama-3-70b", "llama-3-8b"), ("truth", "other-model"), ("m", "m2")],
)
def test_another_model_is_named(asked, answered):
    assert repr(answered) in another(asked, answered)


def test_an_alias_that_the_server_lists_is_the_model():
    assert another("default", "Qwen2.5-7B", frozenset({"Qwen/Qwen2.5-7B"})) is None
    assert len(another("m", "x" * 5000)) < 200
