"""YAML and JSON from outside, read within bounds: what is bigger or deeper is refused, and no parser's stack ends."""

import json
from typing import Any

import yaml

#: Of a file of parameters: bytes, and values once every alias is written out.
MAX_YAML_BYTES, MAX_YAML_VALUES = 1_000_000, 20_000
#: How deep lists and mappings may stand in one another. Whatever handles a value walks it recursively.
MAX_DEPTH = 64


class BoundsError(ValueError):
    """The text is bigger, deeper or more entangled than anything of its kind has to be."""


def yaml_value(text: str) -> Any:  # noqa: ANN401 - YAML
    """Return what a YAML text says.

    Raises:
        BoundsError: It is too big, too deep, or an alias in it stands inside of what it names.
        yaml.YAMLError: It is not valid YAML.
    """
    if len(text.encode(errors="replace")) > MAX_YAML_BYTES:
        raise BoundsError(f"more than {MAX_YAML_BYTES:,} bytes")
    try:
        node = yaml.compose(
            text, Loader=yaml.SafeLoader
        )  # aliases are shared nodes here: nothing has grown yet
        if node is None:
            return None
        if _size(node, {}, 0) > MAX_YAML_VALUES:
            raise BoundsError(f"more than {MAX_YAML_VALUES:,} values, with every * written out")
        return yaml.safe_load(text)
    except RecursionError:
        raise BoundsError(f"values nested deeper than {MAX_DEPTH}, or one that contains itself") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, BoundsError):
            raise
        # A date or number that YAML's grammar allows and Python has none of: 2026-99-99.
        raise yaml.YAMLError(str(error)) from None


def _size(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Return how many values a node holds with every alias written out; each node is counted once."""
    if depth > MAX_DEPTH:
        raise BoundsError(f"values nested deeper than {MAX_DEPTH}, or one that contains itself")
    if id(node) not in known:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(part, known, depth + 1) for part in inner)
    return known[id(node)]


def json_value(text: str | bytes) -> Any:  # noqa: ANN401 - JSON
    """Return what a JSON text says.

    Raises:
        ValueError: It is not JSON; BoundsError: it is nested deeper than `MAX_DEPTH`.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise BoundsError(f"values nested deeper than {MAX_DEPTH}") from None
    opening = (
        text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    )
    if opening > MAX_DEPTH:  # else it cannot be so deep
        _check_depth(found)
    return found


def _check_depth(value: Any) -> None:  # noqa: ANN401 - JSON
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for item in level
            if isinstance(item, dict | list)
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise BoundsError(f"values nested deeper than {MAX_DEPTH}")
