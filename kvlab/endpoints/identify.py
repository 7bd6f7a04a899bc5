"""What answers at an endpoint, from its own pages: the model list, the version, the counters.

Any page may be odd (null, a bare list, text for a number, HTML for every path), so each value is
taken only where it is what it should be, and a page that is none costs only what it would have said.
"""

from typing import Any

from kvlab.endpoints.connect import Connection, Identity
from kvlab.endpoints.metrics import Scrape
from kvlab.endpoints.pages import Page, fetch
from kvlab.errors import InputError, KvlabError
from kvlab.evidence import as_tokens

#: No context is longer: a larger number is none.
_MAX_LENGTH = 10**9


def identify(connection: Connection) -> Identity:
    """Ask the server's own pages what it is.

    Raises:
        InputError: Nothing answers, the key is refused, or the model is not served there.
        KvlabError: The server is not well.
    """
    models = _models(connection)
    entry = next((item for item in models or () if item.get("id") == connection.model), None)
    if models and entry is None:
        known = ", ".join(_line(item.get("id")) for item in models[:5])
        raise InputError("OPENAI_MODEL", connection.model, f"is not served there; it serves {known}")
    connection.aliases = _aliases(entry or {})
    scrape = connection.metrics.scrape()
    kind, version = _kind(connection, str((entry or {}).get("owned_by", "")), scrape)
    lease = connection.embedded
    block, source = _block_size(connection, scrape)
    return Identity(
        kind=kind,
        version=version,
        url="embedded" if lease else connection.target.base_url,
        model=connection.model,
        revision=lease.model.revision if lease else None,
        flags=list(lease.flags) if lease else [],
        block_size=block,
        block_size_source=source,
        max_model_len=_context(entry or {}),
    )


def _models(connection: Connection) -> list[dict[str, Any]] | None:
    """Return what the model list has; ``None``: there is no such page, which is no objection."""
    url = connection.target.base_url
    page = fetch(connection.http, f"{url}/models", timeout_s=30.0)
    if page.status is None or page.why is not None:
        reason = connection.settings.redact(page.why or "no answer")
        raise InputError("OPENAI_BASE_URL", url, f"does not answer ({reason}); start it or correct it")
    message = _line(connection.settings.redact(page.message()), 200)
    if page.status in (401, 403):
        raise InputError(
            "OPENAI_API_KEY", None, f"is refused by {url} (HTTP {page.status}: {message}); correct it"
        )
    if 300 <= page.status < 400:
        raise InputError(
            "OPENAI_BASE_URL", url, f"redirects (HTTP {page.status}); write the address it leads to"
        )
    if page.status >= 500 or page.status == 429:
        fix = "try again when the server is well"
        raise KvlabError(f"{url}/models answers HTTP {page.status} ({message}); {fix}")
    return _listed(page, connection) if page.status == 200 else None


def _listed(page: Page, connection: Connection) -> list[dict[str, Any]]:
    content = page.json()
    data = content.get("data") if isinstance(content, dict) else content
    if isinstance(content, dict) and "data" in content and data is None:
        fix = "is not served there: the server lists no model (its data is null); load or pull one"
        raise InputError("OPENAI_MODEL", connection.model, fix)
    if not isinstance(data, list):
        fix = f"answers, but not as an OpenAI-compatible API (it says {_line(connection.settings.redact(page.message()))!r}); correct it"
        raise InputError("OPENAI_BASE_URL", connection.target.base_url, fix)
    return [item for item in data if isinstance(item, dict)]


def _aliases(entry: dict[str, Any]) -> frozenset[str]:
    listed = entry.get("aliases")
    found = [entry.get(key) for key in ("root", "name", "canonical_slug", "display_name")]
    found += listed if isinstance(listed, list) else []
    return frozenset(name for name in found if isinstance(name, str) and name)


def _context(entry: dict[str, Any]) -> int | None:
    """Return the longest context: vLLM's word for it, else llama.cpp's (what the server was started with)."""
    meta = entry.get("meta")
    stated = _length(entry.get("max_model_len"))
    return stated or (_length(meta.get("n_ctx")) if isinstance(meta, dict) else None)


def _length(value: Any) -> int | None:  # noqa: ANN401 - JSON
    tokens = as_tokens(value)
    return tokens if tokens and tokens <= _MAX_LENGTH else None


def _kind(connection: Connection, owner: str, scrape: Scrape | None) -> tuple[str, str | None]:
    version = _text(_get(connection, "/version").get("version"))
    counted = scrape is not None and any(name.startswith("vllm:") for name in scrape.values)
    if owner == "vllm" or (version and counted):
        return "vLLM", version
    build = _text(_get(connection, "/props").get("build_info"))
    if owner == "llamacpp" or build:
        return "llama.cpp", build
    ollama = _text(_get(connection, "/api/version").get("version"))
    return ("Ollama", ollama) if ollama else ("other", None)


def _get(connection: Connection, path: str) -> dict[str, Any]:
    return fetch(connection.http, connection.root + path, timeout_s=10.0, patience_s=5.0).object()


def _text(value: Any) -> str | None:  # noqa: ANN401 - JSON
    return _line(value, 60) if isinstance(value, str) and value.strip() else None


def _line(value: object, limit: int = 80) -> str:
    """Return a text from outside as one line of visible characters."""
    text = "".join(c if c.isprintable() else " " for c in str(value)[: 4 * limit])
    return " ".join(text.split())[:limit]


def _block_size(connection: Connection, scrape: Scrape | None) -> tuple[int | None, str | None]:
    if connection.settings.kv_block_size_tokens is not None:
        return connection.settings.kv_block_size_tokens, "KV_BLOCK_SIZE_TOKENS"
    block = scrape.block_size() if scrape is not None else None
    return block, "vllm:cache_config_info" if block is not None else None
