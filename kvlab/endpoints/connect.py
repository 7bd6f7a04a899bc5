"""Which server answers, what it is, and what it can prove.

`connect` gives the connection (with secrets, never stored); `kvlab.endpoints.identify` says what
answers there from its own pages; `kvlab.endpoints.probe` then finds out what it can prove by asking it.
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
from pydantic import BaseModel

from kvlab import paths
from kvlab.endpoints.dialect import Dialect
from kvlab.endpoints.facts import Fact
from kvlab.endpoints.metrics import Metrics
from kvlab.errors import InputError
from kvlab.evidence import CacheLaw
from kvlab.settings import Settings
from kvlab.timing.client import Client
from kvlab.timing.request import Target


class Identity(BaseModel):
    """What answers, without credentials. Stored in the manifest and shown in the report.

    Attributes:
        kind: ``vLLM``, ``llama.cpp``, ``Ollama`` or ``other``.
        url: Where; ``embedded`` for kvlab's own server, whose port means nothing.
        model: The name that requests carry.
        revision: What the weights are, where that is known (a file hash, a commit).
        block_size: Tokens per block of the prefix cache.
        learned_law: What its cache reuses, where that was found out by asking.
        max_model_len: Longest context in tokens.
        facts: What it can prove: cached_tokens, metrics, salt, tokenizer, token_ids…, and, from these,
            ``cache_states`` (`kvlab.endpoints.proof`).
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
        dialect: How this server wants its requests written, as far as it is known.
        aliases: Other names that the server gives to the model.
        metrics: The server's counters.
    """

    target: Target
    http: httpx.Client
    model: str
    settings: Settings
    embedded: Any = None
    dialect: Dialect = field(default_factory=Dialect)
    aliases: frozenset[str] = frozenset()
    metrics: Metrics = field(init=False, repr=False)
    _client: Client | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.http, f"{self.root}/metrics")

    @property
    def root(self) -> str:
        """The server's root: the base URL without ``/v1``."""
        return self.target.base_url.removesuffix("/v1")

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


def connect(settings: Settings, embedded_flags: Sequence[str] = ()) -> Connection:
    """Return a connection to the configured endpoint, or to the embedded server, started if need be.

    Args:
        settings: Which endpoint.
        embedded_flags: More flags of vLLM, where it is the embedded server.

    Raises:
        InputError: No endpoint is configured and no embedded engine is installed, or the URL cannot be asked.
        ServerError: The embedded server did not start.
    """
    headers = {}
    lease = None
    if settings.openai_base_url is not None:
        if settings.openai_api_key is not None:
            headers["Authorization"] = f"Bearer {settings.openai_api_key.get_secret_value()}"
        if settings.tensormesh_user_id is not None:
            headers["X-User-Id"] = settings.tensormesh_user_id.get_secret_value()
        url, model = _askable(settings.openai_base_url), settings.openai_model or ""
    else:
        from kvlab.serving import embedded, launch  # only where it is needed: it looks for an engine

        launch.require_linux()
        lease = embedded.acquire(
            settings.kvlab_model,
            cache_dir=paths.cache_dir(),
            extra_flags=(*settings.extra_flags, *embedded_flags),
        )
        headers["Authorization"] = f"Bearer {lease.api_key}"
        url, model = lease.base_url, lease.model.served_name
    target = Target(
        url,
        headers,
        settings.request_timeout_s,
        settings.kv_metric_response_field,
        max_bytes=int(settings.response_max_mib * 2**20),
    )
    # No proxy from the environment: what is asked here must be the server that is measured.
    http = httpx.Client(headers=headers, timeout=30.0, trust_env=False, verify=ssl.create_default_context())
    return Connection(target, http, model, settings, lease)


def _askable(base_url: str) -> str:
    """Return a URL as it goes over the wire: an ASCII host, the path percent-encoded.

    Raises:
        InputError: No host can have that name, or there is no such port.
    """
    try:
        url = httpx.URL(base_url)
        host = url.raw_host.decode("ascii")
        labels = host.removesuffix(".").split(".")
        if ":" not in host and not all(0 < len(label) <= 63 for label in labels):
            raise ValueError("a part of the host's name is empty or longer than 63 characters")
        host.encode("idna")  # what the resolver will do
        return str(url).rstrip("/")
    except (httpx.InvalidURL, ValueError) as error:
        why = " ".join(str(error).split())[:120]
        fix = f"cannot be asked ({why}); write https://host/v1"
        raise InputError("OPENAI_BASE_URL", None if "@" in base_url else base_url, fix) from None
