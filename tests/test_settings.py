import os

import httpx
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


CANARY = "sk-CANARY-0123456789abcdef"


@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{CANARY}@host:99999/v1", f"http://user:{CANARY}/x@host/v1", f"user:{CANARY}@host/v1", CANARY,
        f"http://host/v1?api_key={CANARY}", f"http://host/v1#{CANARY}", f"https://u:{CANARY}@[::1/v1", f"ftp://{CANARY}@h/v1",
        f"http://user:p@{CANARY}@host/v1", f"HTTP://u:{CANARY}@h:x/v1", f"http:\\\\u:{CANARY}@h/v1", f"//u:{CANARY}@h/v1",
    ],
)  # fmt: skip
def test_credentials_in_a_url_are_never_shown(monkeypatch, url):
    set_all(monkeypatch, OPENAI_BASE_URL=url)
    with pytest.raises(InputError) as caught:
        load_settings()
    assert caught.value.field == "OPENAI_BASE_URL"
    assert not [CANARY[i : i + 6] for i in range(len(CANARY) - 5) if CANARY[i : i + 6] in str(caught.value)]


@pytest.mark.parametrize(
    "url",
    [
        "http://a" + "b" * 300 + "/v1", "http://..../v1", "http://127.0.0.1:9/a\tb/v1", "http://xn--/v1", "http:///v1", "http://h:0/v1",
        "http://a..b/v1", "http://h /v1", "http://h\\x/v1", "http://" + "a." * 130 + "b/v1", "http://a\u202eb/v1", "http://\udcff/v1",
        "http://h/\x1b[31m/v1", "http://[zz]/v1", "http://%41/v1", "http://-\u00ad/v1",
    ],
)  # fmt: skip
def test_a_url_that_nobody_can_ask_is_one_line(monkeypatch, url):
    set_all(monkeypatch)
    monkeypatch.setitem(os.environ, "OPENAI_BASE_URL", url)
    with pytest.raises(InputError) as caught:
        load_settings()
    assert caught.value.field == "OPENAI_BASE_URL"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://h/漢/v1/", "http://h/%E6%BC%A2/v1"), ("https://bücher.example:8443/v1", "https://xn--bcher-kva.example:8443/v1"),
        ("http://my_server:1/a%20b/v1", "http://my_server:1/a%20b/v1"), ("http://[::1]:8000/v1", "http://[::1]:8000/v1"),
        ("http://h.example./v1", "http://h.example./v1"),
    ],
)  # fmt: skip
def test_a_url_of_other_letters_is_asked_in_ascii(monkeypatch, url, asked):
    set_all(monkeypatch, OPENAI_BASE_URL=url)
    assert load_settings().openai_base_url == asked
    httpx.Request("GET", f"{asked}/models")  # which it can be


@pytest.mark.parametrize("start", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_windows_file_is_read_from_its_first_key(monkeypatch, tmp_path, start, end):
    file = tmp_path / "my.env"
    for order in (1, -1):
        file.write_bytes(
            start + "".join(f"{key}={value}{end}" for key, value in [*ENDPOINT.items()][::order]).encode()
        )
        monkeypatch.setenv("KVLAB_ENV_FILE", str(file))
        settings = load_settings()
        assert settings.openai_base_url == ENDPOINT["OPENAI_BASE_URL"]
        assert settings.openai_model == "m"


def test_a_file_of_another_encoding_is_one_line(monkeypatch, tmp_path):
    file = tmp_path / "my.env"
    file.write_bytes("OPENAI_MODEL=m".encode("utf-16"))
    monkeypatch.setenv("KVLAB_ENV_FILE", str(file))
    with pytest.raises(InputError, match="UTF-8"):
        load_settings()


@pytest.mark.parametrize("name", ["m\nimport os", "m\x1b[2J", "m\u2028x", "\udcff", "m\u202ex"])
def test_a_model_name_is_one_line_of_text(monkeypatch, name):
    set_all(monkeypatch)
    monkeypatch.setitem(os.environ, "OPENAI_MODEL", name)
    with pytest.raises(InputError) as caught:
        load_settings()
    assert caught.value.field == "OPENAI_MODEL"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("key", ["abc-123", "k3y", CANARY])
def test_short_and_long_keys_are_redacted(monkeypatch, key):
    set_all(monkeypatch, OPENAI_API_KEY=key)
    assert key not in load_settings().redact(f"Incorrect API key provided: Bearer {key}")


@pytest.mark.parametrize(
    "text",
    ["--port 9", "--api-key=x", "--mod other", "block-size 9", "--a 'b", "--served_model_name x", "--x\n--y"],
)
def test_engine_args_that_kvlab_sets_itself_are_refused(text):
    with pytest.raises(InputError, match="KVLAB_ENGINE_ARGS"):
        load_settings(kvlab_engine_args=text)


def test_engine_args_are_split_as_a_shell_would_and_in_the_contract():
    settings = load_settings(kvlab_engine_args="--block-size 128 --no-enable-prefix-caching --x 'a b'")
    assert settings.extra_flags == ("--block-size", "128", "--no-enable-prefix-caching", "--x", "a b")
    assert settings.public()["kvlab_engine_args"].startswith("--block-size")
    assert load_settings().extra_flags == ()
