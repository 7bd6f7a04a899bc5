"""`.env` and environment, as typed settings. The environment wins over the file; empty means unset."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from kvlab import paths
from kvlab.errors import InputError

#: Keys whose values appear nowhere but in the environment and in request headers.
SECRET_KEYS = ("OPENAI_API_KEY", "TENSORMESH_USER_ID")


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
    kv_metric_response_field: str | None = Field(default=None, pattern=r"^[\w-]+(\.[\w-]+)*$")
    kv_block_size_tokens: int | None = Field(default=None, ge=1, le=1_000_000)
    kvlab_model: str | None = None

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
        try:
            parts = urlsplit(url.strip())
            port_is_sound = parts.port is None or parts.port > 0
        except ValueError:
            raise ValueError("is not a URL; write https://host/v1") from None
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("carries credentials or a query; put the key into OPENAI_API_KEY")
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_sound:
            raise ValueError("is not an http(s) URL; write https://host/v1")
        if not parts.path.rstrip("/").endswith("/v1"):
            raise ValueError("must end in /v1; append it")
        return url.strip().rstrip("/")

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
    def is_remote(self) -> bool:
        """Whether an endpoint is configured; if not, the embedded server answers."""
        return self.openai_base_url is not None

    def secrets(self) -> list[str]:
        """Return the secret values, for redaction only."""
        both = (self.openai_api_key, self.tensormesh_user_id)
        return [secret.get_secret_value() for secret in both if secret is not None]

    def redact(self, text: str) -> str:
        """Return ``text`` without any secret value in it."""
        for secret in self.secrets():
            # A short "secret" such as EMPTY is no secret, and removing it would garble messages.
            text = text.replace(secret, "[redacted]") if len(secret) >= 8 else text
        return text

    def public(self) -> dict[str, object]:
        """Return the settings that a manifest may hold: an allow-list, in which no secret is."""
        names = ("request_timeout_s", "kv_metric_response_field", "kv_block_size_tokens", "kvlab_model")
        return {name: getattr(self, name) for name in names}


def load_settings() -> Settings:
    """Read ``.env`` and the environment.

    Raises:
        InputError: A key is malformed, or an endpoint is only half configured. The message names
            the key, and never shows the value of a secret one.
    """
    path = paths.env_file()
    try:
        settings = Settings(_env_file=path, _env_file_encoding="utf-8")
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]).upper()
        hidden = key in SECRET_KEYS or "credentials" in first["msg"]
        raise InputError(key, None if hidden else first["input"], _plain(first["msg"])) from None
    except UnicodeDecodeError:
        raise InputError(".env", str(path), "is not UTF-8 text; save it as UTF-8") from None
    _check_complete(settings)
    return settings


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
