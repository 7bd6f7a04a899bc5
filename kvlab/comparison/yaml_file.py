"""The YAML files that ``kvlab ab`` and ``kvlab grid`` take, read and checked the same way."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from kvlab.bounded import BoundsError, yaml_value
from kvlab.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


def read(path: Path, command: str, what: str) -> Any:  # noqa: ANN401 - YAML
    """Return what a file holds.

    Args:
        path: The file.
        command: What the message begins with: ``ab``, ``grid``.
        what: What it should hold, in words.

    Raises:
        InputError: It is not there, or is no YAML within bounds.
    """
    try:
        return yaml_value(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(command, str(path), f"cannot be read ({error.strerror}); name a YAML file") from None
    except (UnicodeDecodeError, BoundsError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:120]
        raise InputError(command, str(path), f"is not the YAML of a {what} ({why})") from None


def checked(kind: type[Model], content: Any, source: str, what: str) -> Model:  # noqa: ANN401 - YAML
    """Return the model of what a file holds, or a caller gives.

    Raises:
        InputError: Something in it is missing, unknown or of another kind; the first such thing is named.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or what
        why = first["msg"].removeprefix("Value error, ").lower()
        raise InputError(name, None, f"{why} ({source})") from None
