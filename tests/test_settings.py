import pytest

from kvlab.errors import InputError
from kvlab.settings import load_settings

ENDPOINT = {
    "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
    "OPENAI_API_KEY": "sk-abcdefgh12345678",
    "OPENAI_MODEL": "m",
}


def set_all(monkeypatch, **changes):
    for key, value in {**ENDPOINT, **changes}.items():
        monkeypatch.setenv(key, value)


def test_without_anything_the_embedded_server_answers():
    assert not load_settings().is_remote


def test_environment_wins_over_the_file_and_empty_is_unset(monkeypatch, tmp_path):
    file = tmp_path / "my.env"
    file.write_text("REQUEST_TIMEOUT_S=10\nMAX_TOKENS=\nMANUAL_SEED=5\n")
    monkeypatch.setenv("KVLAB_ENV_FILE", str(file))
    monkeypatch.setenv("REQUEST_TIMEOUT_S", "20")
    settings = load_settings()
    assert (settings.request_timeout_s, settings.max_tokens, settings.manual_seed) == (20, None, 5)


@pytest.mark.parametrize(
    ("changes", "field", "says"),
    [
        ({"OPENAI_BASE_URL": "http://127.0.0.1:9"}, "OPENAI_BASE_URL", "must end in /v1"),
        ({"OPENAI_BASE_URL": "127.0.0.1:9/v1"}, "OPENAI_BASE_URL", "not an http"),
        ({"OPENAI_BASE_URL": "http://h:99999/v1"}, "OPENAI_BASE_URL", "not a URL"),
        ({"OPENAI_BASE_URL": "http://user:hunter22@h/v1"}, "OPENAI_BASE_URL", "carries credentials"),
        ({"OPENAI_BASE_URL": "http://h/v1?key=hunter22"}, "OPENAI_BASE_URL", "carries credentials"),
        ({"OPENAI_MODEL": ""}, "OPENAI_MODEL", "is missing"),
        ({"OPENAI_API_KEY": ""}, "OPENAI_API_KEY", "is missing"),
        ({"OPENAI_API_KEY": "hunter22\nX: y"}, "OPENAI_API_KEY", "no HTTP header"),
        ({"OPENAI_BASE_URL": ""}, "OPENAI_BASE_URL", "is missing, though OPENAI_MODEL is set"),
        ({"OPENAI_BASE_URL": "https://api.tensormesh.ai/v1"}, "TENSORMESH_USER_ID", "is missing"),
        ({"REQUEST_TIMEOUT_S": "soon"}, "REQUEST_TIMEOUT_S", "valid number"),
        ({"REQUEST_TIMEOUT_S": "-1"}, "REQUEST_TIMEOUT_S", "greater than 0"),
        ({"SCENARIO_TOKEN_TARGETS": "4000;8000"}, "SCENARIO_TOKEN_TARGETS", "separated by commas"),
        ({"KV_METRIC_RESPONSE_FIELD": "a..b"}, "KV_METRIC_RESPONSE_FIELD", "pattern"),
    ],
)
def test_a_wrong_key_is_named_and_no_secret_is_shown(monkeypatch, changes, field, says):
    set_all(monkeypatch, **changes)
    with pytest.raises(InputError) as caught:
        load_settings()
    assert caught.value.field == field
    assert says in str(caught.value)
    assert "hunter22" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_redaction_removes_the_secret_and_leaves_placeholders_alone(monkeypatch):
    set_all(monkeypatch)
    assert load_settings().redact("wrong key sk-abcdefgh12345678!") == "wrong key [redacted]!"
    set_all(monkeypatch, OPENAI_API_KEY="EMPTY")
    assert load_settings().redact("EMPTY_OUTPUT") == "EMPTY_OUTPUT"


def test_no_secret_in_repr_or_public(monkeypatch):
    set_all(monkeypatch, TENSORMESH_USER_ID="user-1234567890")
    settings = load_settings()
    for text in (repr(settings), str(settings.public()), settings.model_dump_json()):
        assert "sk-abcdefgh" not in text
        assert "user-1234567890" not in text


def test_a_missing_env_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("KVLAB_ENV_FILE", str(tmp_path / "none.env"))
    with pytest.raises(InputError, match="KVLAB_ENV_FILE"):
        load_settings()
