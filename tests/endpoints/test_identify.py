"""What a server says of itself, however oddly."""

import pytest

from benchmarks.servers.odd_server import OddServer
from kvlab.endpoints import connect as endpoint
from kvlab.endpoints.identify import identify
from kvlab.errors import InputError, KvlabError
from kvlab.settings import load_settings


@pytest.fixture
def identified(monkeypatch):
    """Identify a server whose pages are given."""

    def run(**pages):
        with OddServer((500, {}), **pages) as server:
            monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
            monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
            monkeypatch.setenv("OPENAI_MODEL", "m")
            with endpoint.connect(load_settings()) as connection:
                return identify(connection)

    return run


HTML = (200, b"<!doctype html><title>Gateway</title>", {"Content-Type": "text/html"})
MODEL = {"id": "m"}


def test_a_web_page_for_every_other_path_says_nothing(identified):
    found = identified(version=HTML, metrics=HTML, props=HTML, api__version=HTML)
    assert (found.kind, found.version, found.block_size) == ("other", None, None)


@pytest.mark.parametrize(
    "models", [(404, {}), (200, [MODEL]), (200, {"data": [MODEL, None, 5]}), (200, {"data": []})]
)
def test_a_model_list_may_be_bare_partly_odd_empty_or_missing(identified, models):
    assert identified(v1__models=models).model == "m"


@pytest.mark.parametrize(
    ("models", "field", "words"),
    [
        ((200, {"data": None}), "OPENAI_MODEL", "lists no model"),
        ((200, {"data": 5}), "OPENAI_BASE_URL", "not as an OpenAI-compatible API"),
        ((200, b"null"), "OPENAI_BASE_URL", "not as an OpenAI-compatible API"),
        (HTML, "OPENAI_BASE_URL", "Gateway"),
        ((200, b"[" * 100_000), "OPENAI_BASE_URL", "not as an OpenAI-compatible API"),
        ((200, {"data": [{"id": 5}, {"id": "\x1b[31mred\nline"}]}), "OPENAI_MODEL", "it serves 5, "),
        ((401, {"error": {"message": "bad key sk-secret-0123456789"}}), "OPENAI_API_KEY", "redacted"),
        ((307, b""), "OPENAI_BASE_URL", "redirects"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(identified, models, field, words):
    with pytest.raises(InputError) as raised:
        identified(v1__models=models)
    text = str(raised.value)
    assert (raised.value.field, text.count("\n")) == (field, 0)
    assert words in text
    assert "\x1b" not in text
    assert "sk-secret" not in text


def test_a_server_that_is_not_well_is_no_wrong_address(identified):
    with pytest.raises(KvlabError, match=r"HTTP 502 .*upstream is gone") as raised:
        identified(v1__models=(502, {"error": "upstream is gone"}))
    assert not isinstance(raised.value, InputError)


@pytest.mark.parametrize(
    ("stated", "length"),
    [
        (8192, 8192),
        ("8192", 8192),
        ("lots", None),
        (-1, None),
        (0, None),
        (True, None),
        (32768.5, None),
        (10**30, None),
        ([1], None),
    ],
)
def test_a_context_length_is_a_number_of_tokens_or_unknown(identified, stated, length):
    models = (200, {"data": [{"id": "m", "max_model_len": stated, "owned_by": ["vllm"]}]})
    assert identified(v1__models=models).max_model_len == length


@pytest.mark.parametrize(
    ("meta", "length"),
    [({"n_ctx": 4096, "n_ctx_train": 8192}, 4096), ({"n_ctx_train": 8192}, None), ([1], None)],
)
def test_llama_cpp_states_the_context_that_it_was_started_with(identified, meta, length):
    models = (200, {"data": [{"id": "m", "owned_by": "llamacpp", "meta": meta}]})
    assert identified(v1__models=models).max_model_len == length


@pytest.mark.parametrize("version", [5, {"a": 1}, None, "", ["1"]])
def test_a_version_is_a_text_or_unknown(identified, version):
    assert identified(version=(200, {"version": version})).version is None


@pytest.mark.parametrize(
    "url",
    ["http://a" + "b" * 300 + "/v1", "http://..../v1", "http://xn--/v1", "http://a..b/v1"],
)
def test_a_host_that_cannot_be_is_one_line(monkeypatch, url):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    monkeypatch.setenv("OPENAI_MODEL", "m")
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with (
        pytest.raises(InputError, match="OPENAI_BASE_URL"),
        endpoint.connect(load_settings()) as connection,
    ):
        identify(connection)


def test_a_path_outside_ascii_is_percent_encoded(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    monkeypatch.setenv("OPENAI_MODEL", "m")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/漢/v1")
    try:
        connection = endpoint.connect(load_settings())
    except InputError:
        return  # refused by the settings is as good
    with connection:
        assert connection.target.encode("/chat", {}, {}).startswith(b"POST /%E6%BC%A2/v1/chat HTTP/1.1")
