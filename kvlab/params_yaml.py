"""What a parameter file and ``--set`` say: YAML within bounds, with variables of the environment filled in."""

import os
import re
from pathlib import Path
from typing import Any

import yaml

from kvlab.bounded import BoundsError, yaml_value
from kvlab.errors import InputError
from kvlab.settings import SECRET_KEYS

_MOST_PARTS = 8
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
#: Names of variables that hold something secret, by the habit of those who name them.
_SECRET_NAME = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|USER_ID)$", re.IGNORECASE
)


def read(path: Path) -> dict[str, Any]:
    """Return the parameters of a file, each ``${NAME}`` replaced; an empty file holds none.

    Raises:
        InputError: It is not there, is no YAML within bounds, or holds something else.
    """
    try:
        content = yaml_value(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise InputError("--params", str(path), "is not there; name an existing YAML file") from None
    except OSError as error:
        fix = f"cannot be read ({error.strerror}); name a YAML file"
        raise InputError("--params", str(path), fix) from None
    except UnicodeDecodeError:
        raise InputError("--params", str(path), "is not UTF-8 text; save it as UTF-8") from None
    except BoundsError as error:
        raise InputError(
            "--params", str(path), f"holds {error}; write out what it needs and no more"
        ) from None
    except yaml.YAMLError as error:
        where = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise InputError("--params", str(path), f"is not valid YAML at line {where}; fix it") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError("--params", str(path), "must hold `name: value` lines") from None
    return {key: _expanded(value, key, path) for key, value in content.items()}


def _expanded(value: Any, name: str, path: Path) -> Any:  # noqa: ANN401 - YAML
    """Return ``value`` with each ``${NAME}`` replaced; a value that is nothing else is read as YAML.

    Raises:
        InputError: The variable is not set, or is a secret: parameters are written into notebooks.
    """
    if isinstance(value, dict):
        return {key: _expanded(content, f"{name}.{key}", path) for key, content in value.items()}
    if isinstance(value, list):
        return [_expanded(content, name, path) for content in value]
    if not isinstance(value, str) or not _VARIABLE.search(value):
        return value
    for variable in _VARIABLE.findall(value):
        if variable.upper() in SECRET_KEYS or _SECRET_NAME.search(variable):
            fix = f"would put a secret into {path.name}'s parameters; secrets stay in the environment"
            raise InputError(name, f"${{{variable}}}", fix)
        if not os.environ.get(variable):
            raise InputError(name, f"${{{variable}}}", f"is not set ({path.name}); export {variable}")
    text = _VARIABLE.sub(lambda found: os.environ[found[1]], value)
    if not _VARIABLE.fullmatch(value):
        return text
    try:
        return yaml_value(text)
    except (yaml.YAMLError, BoundsError):
        raise InputError(
            name, value, f"stands for no YAML value ({path.name}); correct what it is set to"
        ) from None


def parse_override(text: str) -> dict[str, Any]:
    """Return ``a.b=value`` as nested mappings.

    Raises:
        InputError: It has another form, or a value that is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError("--set", text, "must be key=value, for example --set repeats=3")
    try:
        content = yaml_value(value)
    except yaml.YAMLError:
        raise InputError("--set", text, "has a value that is not YAML; quote it") from None
    except BoundsError as error:
        raise InputError("--set", text, f"has {error}") from None
    parts = key.strip().split(".")
    if len(parts) > _MOST_PARTS:
        raise InputError("--set", text, "goes deeper than any parameter; write group.name=value")
    for part in reversed(parts):
        content = {part: content}
    return dict(content)
