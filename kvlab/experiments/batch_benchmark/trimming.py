"""The trimming constants that a context-limit run recommends."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvlab.errors import InputError

_NAMES = ("trim_interval", "keep_messages")


def trimming_of(path: str) -> dict[str, int]:
    """Return ``trim_interval`` and ``keep_messages`` out of a context-limit run's summary.

    Raises:
        InputError: The file is not one.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            "context_limit_summary", path, "is not a JSON file; name a run's summary.json"
        ) from None
    found = {name: _find(content, name) for name in _NAMES}
    whole = all(isinstance(value, int) and not isinstance(value, bool) for value in found.values())
    if not whole or found["trim_interval"] < 1 or found["keep_messages"] < 0:
        fix = "recommends no TRIM_INTERVAL and KEEP_MESSAGES; name a context-limit run's summary.json"
        raise InputError("context_limit_summary", path, fix)
    return found


def _find(content: Any, name: str) -> Any:  # noqa: ANN401 - JSON
    """Return the first value of a key, whatever its case, anywhere in nested objects; else ``None``."""
    if not isinstance(content, Mapping):
        return None
    for key, value in content.items():
        if str(key).lower() == name and not isinstance(value, Mapping):
            return value
    return next((found for value in content.values() if (found := _find(value, name)) is not None), None)
