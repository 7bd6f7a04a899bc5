"""Which server answers, what it is, and what it can prove.

`connect` gives the connection (with secrets, never stored); `identify` says what answers there
from its own pages; `kvlab.endpoints.probe` then finds out what it can prove by asking it.
"""

import ssl
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
from pydantic import BaseModel

from kvlab import paths
from kvlab.endpoints.metrics import Metrics, Scrape
from kvlab.errors import InputError, KvlabError
from kvlab.evidence import CacheLaw
from kvlab.settings import Settings
from kvlab.timing.client import Client
from kvlab.timing.request import Target


class Fact(BaseModel):
    """Something a server can or cannot do; ``None``: not found out. ``why`` says how we know."""

    holds: bool | None = None
    why: str = "not asked"


class Identity(BaseModel):
    """What answers, without credentials. Stored in the manifest and shown in the report.

    Attributes:
        kind: ``vLLM``, ``llama.cpp``, ``Ollama`` or ``other``.
        url: Where; ``embedded`` for kvlab's own server, whose port means nothing.
        model: The name that requests carry.
        revision: What the weights are, where that is known (a file hash, a commit).
        block_size: Tokens a block of the prefix cache.
        learned_law: What its cache reuses, where that was found out by asking.
        max_model_len: Longest context in tokens.
        facts: What it can prove: cached_tokens, metrics, salt, tokenizer, token_ids.
    """

    kind: str = "other"
    version: str | None = None
    url: str
    model: str
    revision: str | None = None
    block_size: int | None = None
    block_size_source: str | None = None
    learned_law: CacheLaw | None = None
    max_model_len: int | None = None
    flags: list[str] = []
    facts: dict[str, Fact] = {}

    @property
    def law(self) -> CacheLaw | None:
        """What its cache reuses: as learned, else whole blocks of the size that it states; ``None``: unknown."""
        if self.learned_law is not None or self.block_size is None:
            return self.learned_law
        return CacheLaw.whole_blocks(self.block_size)

    def can(self, fact: str) -> bool:
        """Whether a fact is known to hold."""
        return self.facts.get(fact, Fact()).holds is True


@dataclass
class Connection:
    """An endpoint in use: a context manager that closes what it opened.

    Attributes:
        target: Where measured requests go.
        http: For everything that is not measured.
        model: The model's name in requests.
        embedded: The lease on kvlab's own server, if that is what answers.
    """

    target: Target
    http: httpx.Client
    model: str
    settings: Settings
    embedded: Any = None
    _client: Client | None = field(default=None, repr=False)

    @property
    def root(self) -> str:
        """The server's root: the base URL without ``/v1``."""
        return self.target.base_url.removesuffix("/v1")

    @property
    def metrics(self) -> Metrics:
        """The server's counters."""
        return Metrics(self.http, f"{self.root}/metrics")

    @property
    def client(self) -> Client:
        """The measuring client, opened on first use."""
        if self._client is None:
            self._client = Client(self.target)
        return self._client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and give the embedded server back."""
        if self._client is not None:
            self._client.close()
        self.http.close()
        if self.embedded is not None:
            self.embedded.release()


def connect(settings: Settings) -> Connection:
    """Return a connection to the configured endpoint, or to the embedded server, started if need be.

    Raises:
        InputError: No endpoint is configured and no embedded engine is installed.
        ServerError: The embedded server did not start.
    """
    headers = {}
    if settings.openai_base_url is not None:
        if settings.openai_api_key is not None:
            headers["Authorization"] = f"Bearer {settings.openai_api_key.get_secret_value()}"
        if settings.tensormesh_user_id is not None:
            headers["X-User-Id"] = settings.tensormesh_user_id.get_secret_value()
        url, model, lease = settings.openai_base_url, settings.openai_model or "", None
    else:
        from kvlab.serving import embedded  # only where it is needed: it looks for an engine

        lease = embedded.acquire(settings.kvlab_model, cache_dir=paths.cache_dir())
        url, model = lease.base_url, lease.model.served_name
    target = Target(url, headers, settings.request_timeout_s, settings.kv_metric_response_field)
    # No proxy from the environment: what is asked here must be the server that is measured.
    http = httpx.Client(headers=headers, timeout=30.0, trust_env=False, verify=ssl.create_default_context())
    return Connection(target, http, model, settings, lease)


def identify(connection: Connection) -> Identity:
    """Ask the server's own pages what it is.

    Raises:
        InputError: Nothing answers, the key is refused, or the model is not served there.
    """
    models = _models(connection)
    entry = next((item for item in models if item.get("id") == connection.model), None)
    if models and entry is None:
        known = ", ".join(str(item.get("id")) for item in models[:5])
        raise InputError("OPENAI_MODEL", connection.model, f"is not served there; it serves {known}")
    kind, version = _kind(connection, str((entry or {}).get("owned_by", "")))
    lease = connection.embedded
    block, source = _block_size(connection, connection.metrics.scrape())
    return Identity(
        kind=kind,
        version=version,
        url="embedded" if lease else connection.target.base_url,
        model=connection.model,
        revision=lease.model.revision if lease else None,
        flags=list(lease.flags) if lease else [],
        block_size=block,
        block_size_source=source,
        max_model_len=(entry or {}).get("max_model_len"),
    )


def _models(connection: Connection) -> list[dict[str, Any]]:
    url = connection.target.base_url
    try:
        answer = connection.http.get(f"{url}/models")
    except httpx.HTTPError as error:
        reason = connection.settings.redact(str(error)) or type(error).__name__
        raise InputError(
            "OPENAI_BASE_URL", url, f"does not answer ({reason}); start it or correct it"
        ) from None
    if answer.status_code in (401, 403):
        raise InputError(
            "OPENAI_API_KEY", None, f"is refused by {url} (HTTP {answer.status_code}); correct it"
        )
    if answer.status_code >= 500:
        raise KvlabError(f"{url}/models answers HTTP {answer.status_code}; try again when the server is well")
    try:
        data = answer.json()["data"] if answer.status_code == 200 else []
    except (ValueError, KeyError, TypeError):
        fix = "answers, but not as an OpenAI-compatible API; correct it"
        raise InputError("OPENAI_BASE_URL", url, fix) from None
    return [item for item in data if isinstance(item, dict)]


def _kind(connection: Connection, owner: str) -> tuple[str, str | None]:
    version = _get(connection, "/version").get("version")
    if owner == "vllm" or (version and connection.metrics.scrape() is not None):
        return "vLLM", version
    if owner == "llamacpp" or "build_info" in (props := _get(connection, "/props")):
        props = _get(connection, "/props")
        return "llama.cpp", props.get("build_info")
    ollama = _get(connection, "/api/version").get("version")
    return ("Ollama", ollama) if ollama else ("other", None)


def _get(connection: Connection, path: str) -> dict[str, Any]:
    try:
        answer = connection.http.get(connection.root + path)
        content = answer.json() if answer.status_code == 200 else {}
    except (httpx.HTTPError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _block_size(connection: Connection, scrape: Scrape | None) -> tuple[int | None, str | None]:
    if connection.settings.kv_block_size_tokens is not None:
        return connection.settings.kv_block_size_tokens, "KV_BLOCK_SIZE_TOKENS"
    block = scrape.block_size() if scrape is not None else None
    return block, "vllm:cache_config_info" if block is not None else None
