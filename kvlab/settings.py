"""`.env` and environment, as typed settings. The environment wins over the file; empty means unset."""

import re
import shlex
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

import idna
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kvlab import paths
from kvlab.errors import InputError
from kvlab.escape import line
from kvlab.redact import Redactor

#: Keys whose values appear nowhere but in the environment and in request headers.
SECRET_KEYS = ("OPENAI_API_KEY", "TENSORMESH_USER_ID")
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}")
#: What stands in a path as it is (RFC 3986); a percent sign is there because something is encoded already.
_PATH = "/%:@!$&'()*+,;=~"


class Settings(BaseSettings):
    """Everything the environment says.

    Units are in the names; ``None`` means "not set". The ``SCENARIO_…`` and ``MANUAL_…`` keys tune
    one experiment and override its profile; `kvlab.params` applies and records them.
    """

    model_config = SettingsConfigDict(env_ignore_empty=True, extra="ignore", case_sensitive=False)

    openai_base_url: str | None = None
    openai_api_key: SecretStr | None = None
    openai_model: str | None = None
    tensormesh_user_id: SecretStr | None = None
    request_timeout_s: float = Field(default=300, gt=0, le=86_400)
    response_max_mib: float = Field(default=64, ge=0.25, le=4096)
    kv_metric_response_field: str | None = Field(default=None, pattern=r"^[\w-]+(\.[\w-]+)*$")
    kv_block_size_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    kvlab_model: str | None = None
    kvlab_engine_args: str | None = Field(default=None, max_length=2000)
    kvlab_ask_above_requests: int = Field(default=1_000, ge=0, le=10**12)
    kvlab_ask_above_tokens: int = Field(default=1_000_000, ge=0, le=10**15)
    kvlab_price_per_million_prompt_tokens: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    kvlab_price_per_million_completion_tokens: float | None = Field(default=None, ge=0, allow_inf_nan=False)

    scenario_token_targets: Annotated[list[int] | None, NoDecode] = None
    scenario_isolation_id: str | None = Field(default=None, pattern=r"^[\w.-]{1,64}$")
    max_tokens: int | None = None
    temperature: float | None = None
    manual_seed: int | None = None
    manual_sections: int | None = None
    ttft_min_reduction_fraction: float | None = None

    @field_validator("openai_base_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        return base_url(url.strip())

    @field_validator("openai_model", "kvlab_model")
    @classmethod
    def _check_name(cls, name: str | None) -> str | None:
        if name is not None and line(name) != name:
            raise ValueError("has a line end, a control character or half a character in it; copy it again")
        return name

    @field_validator("kvlab_engine_args")
    @classmethod
    def _check_engine_args(cls, text: str | None) -> str | None:
        if text is not None:
            engine_args(text)
        return text

    @field_validator("openai_api_key", "tensormesh_user_id")
    @classmethod
    def _check_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is None:
            return None
        text = secret.get_secret_value().strip()
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("has characters that no HTTP header can carry; copy it again")
        return SecretStr(text)

    @field_validator("scenario_token_targets", mode="before")
    @classmethod
    def _split_targets(cls, value: Any) -> Any:  # noqa: ANN401 - pydantic hands over what it found
        if not isinstance(value, str):
            return value
        parts = [part.strip() for part in value.strip("[] ").split(",")]
        if not all(part.isdigit() for part in parts):
            raise ValueError("must be whole numbers separated by commas, such as 4000,8000")
        return [int(part) for part in parts]

    @property
    def extra_flags(self) -> tuple[str, ...]:
        """Further flags for the embedded vLLM."""
        return engine_args(self.kvlab_engine_args or "")

    @property
    def is_remote(self) -> bool:
        """Whether an endpoint is configured; if not, the embedded server answers."""
        return self.openai_base_url is not None

    def secrets(self) -> list[str]:
        """Return the secret values, for redaction only."""
        both = (self.openai_api_key, self.tensormesh_user_id)
        return [secret.get_secret_value() for secret in both if secret is not None]

    @cached_property
    def redactor(self) -> Redactor:
        """Takes the secret values out of whatever a server says, before it is cut, stored or shown."""
        return Redactor(self.secrets())

    def redact(self, text: str) -> str:
        """Return ``text`` without any secret value, or piece of one, in it."""
        return self.redactor(text)

    def public(self) -> dict[str, object]:
        """Return the settings that a manifest may hold: an allow-list, in which no secret is."""
        names = (
            "request_timeout_s", "kv_metric_response_field", "kv_block_size_tokens", "kvlab_model",
            *(("kvlab_engine_args",) if self.kvlab_engine_args else ()),  # as in the contracts of runs from before
        )  # fmt: skip
        return {name: getattr(self, name) for name in names}


#: Flags of vLLM that kvlab sets itself: with another value it would talk to something else, or to nothing.
_OWN_FLAGS = (
    "--model", "--served-model-name", "--host", "--port", "--uds", "--api-key", "--tokenizer", "--config", "--ssl-",
    "--root-path", "--middleware", "--tool-parser-plugin", "--trust-remote-code", "--disable-uvicorn", "--download-dir",
)  # fmt: skip


def engine_args(text: str) -> tuple[str, ...]:
    """Return the flags in ``KVLAB_ENGINE_ARGS``, split as a shell would.

    Raises:
        ValueError: It is none that may be passed on.
    """
    if line(text) != text:
        raise ValueError("has a line end or a control character in it; write it on one line")
    try:
        found = tuple(shlex.split(text))
    except ValueError:
        raise ValueError("has a quote without its other half; close it") from None
    if found and not found[0].startswith("--"):
        raise ValueError("must be flags of vLLM, such as --block-size 128")
    for word in found:
        # argparse takes any beginning of a flag that is one flag's alone.
        name = word.split("=")[0].replace("_", "-")
        if (
            len(name) > 3
            and name.startswith("--")
            and any(f.startswith(name) or name.startswith(f) for f in _OWN_FLAGS)
        ):
            raise ValueError(f"holds {name}, which kvlab sets itself; leave it out")
    return found


def load_settings(**given: Any) -> Settings:  # noqa: ANN401 - fields of `Settings`, checked like the others
    """Read ``.env`` and the environment.

    Args:
        given: Fields that a caller has chosen; they win over both.

    Raises:
        InputError: A key is malformed, or an endpoint is only half configured. The message names
            the key, and never shows the value of a secret one.
    """
    path = paths.env_file()
    try:
        settings = Settings(
            _env_file=path,
            _env_file_encoding="utf-8-sig",  # Windows begins files with a mark
            **given,
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]).upper()
        shown = first["input"]
        if key == "OPENAI_BASE_URL":
            shown = without_credentials(str(shown))
        raise InputError(key, None if key in SECRET_KEYS else shown, _plain(first["msg"])) from None
    except OSError as error:
        raise InputError(".env", str(path), f"cannot be read ({error.strerror}); make it readable") from None
    except UnicodeDecodeError:
        raise InputError(".env", str(path), "is not UTF-8 text; save it as UTF-8") from None
    _check_complete(settings)
    return settings


def base_url(url: str) -> str:
    """Return a base URL as requests carry it, in ASCII: a name of other letters in its IDNA form.

    Raises:
        ValueError: It is none that can be asked, or carries what must not be stored.
    """
    try:
        parts = urlsplit(url)
        port_is_sound = parts.port is None or parts.port > 0
    except ValueError:
        raise ValueError("is not a URL; write https://host/v1") from None
    if "@" in url or parts.query or parts.fragment:
        raise ValueError("carries credentials or a query; put the key into OPENAI_API_KEY")
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_sound:
        raise ValueError("is not an http(s) URL; write https://host/v1")
    if line(url) != url or " " in url or "\\" in url:
        raise ValueError("has a space, a backslash or a control character in it; copy it again")
    if not parts.path.rstrip("/").endswith("/v1"):
        raise ValueError("must end in /v1; append it")
    netloc = _host(parts.hostname) + ("" if parts.port is None else f":{parts.port}")
    return f"{parts.scheme}://{netloc}{quote(parts.path.rstrip('/'), safe=_PATH)}"


def _host(name: str) -> str:
    """Return a host as the resolver takes it."""
    if ":" in name:
        return f"[{name}]"
    try:
        ascii_name = name if name.isascii() else idna.encode(name, uts46=True).decode()
        labels = ascii_name.removesuffix(".").split(".")
        sound = len(ascii_name) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
        for label in labels:
            if label.startswith("xn--"):
                idna.decode(label)
    except (idna.IDNAError, UnicodeError, IndexError):
        sound = False
    if not sound:
        raise ValueError("has a host that no name server knows: parts of 1 to 63 letters, digits, - and _")
    return ascii_name


def without_credentials(url: str) -> str | None:
    """Return what of a wrong URL may be shown: nothing before an ``@``, no query; ``None``: it is no URL at all."""
    scheme, found, rest = url.strip().partition("://")
    if not found or scheme.lower() not in ("http", "https"):
        return None  # a key, perhaps, in the wrong place
    rest = (
        re.split(r"[?#]", rest)[0]
        if "@" not in rest
        else "…@" + re.split(r"[?#]", rest.rpartition("@")[2])[0]
    )
    return f"{scheme}://{rest}"


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")


def _check_complete(settings: Settings) -> None:
    """Refuse half an endpoint: it would measure another server than the user means."""
    if settings.openai_base_url is None:
        for key in ("openai_model", "tensormesh_user_id"):
            if getattr(settings, key) is not None:
                fix = f"is missing, though {key.upper()} is set; add it, or unset {key.upper()} to use the "
                raise InputError("OPENAI_BASE_URL", None, fix + "embedded server")
        return
    if settings.openai_model is None:
        raise InputError("OPENAI_MODEL", None, "is missing; name the model that OPENAI_BASE_URL serves")
    if settings.openai_api_key is None:
        raise InputError("OPENAI_API_KEY", None, "is missing; for a server that needs none, write EMPTY")
    host = urlsplit(settings.openai_base_url).hostname or ""
    if "tensormesh" in host and settings.tensormesh_user_id is None:
        raise InputError("TENSORMESH_USER_ID", None, "is missing; Tensormesh routes requests by it")
