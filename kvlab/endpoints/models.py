"""Whether the model that answered is the one that was asked for.

A gateway may fall back to another model without a word, and an alias may stand for a dated name: the
first spoils a measurement, the second does not.
"""

import re

# What a name may be followed by and still name the same model: a date, "latest", a revision, a format.
_TAIL = re.compile(
    r"[-:@._](\d{4}-?\d{2}-?\d{2}|\d{4,8}|latest|preview|main|fp8|fp16|bf16|awq|gptq|gguf|q\d\w*|[0-9a-f]{7,40})$"
)
_FILE = re.compile(r"\.(gguf|safetensors|bin)$")


def same_model(asked: str, answered: str, aliases: frozenset[str] = frozenset()) -> bool:
    """Whether two names can be of the same model.

    Paths and provider prefixes count by their last part, letter case not at all; a date, a tag or a
    format may follow.

    Args:
        asked: What the request carried.
        answered: What its answer carries.
        aliases: Other names that the server's own list gives to the model that was asked for.
    """
    names = {_plain(name) for name in (asked, *aliases)}
    return _plain(answered) in names or _bare(answered) in {_bare(name) for name in (asked, *aliases)}


def _plain(name: str) -> str:
    return " ".join(name.split()).casefold().rstrip("/")


def _bare(name: str) -> str:
    last = _FILE.sub("", re.split(r"[/\\]", _plain(name))[-1])
    while (shorter := _TAIL.sub("", last)) != last and shorter:
        last = shorter
    return last


def another(asked: str | None, answered: str | None, aliases: frozenset[str] = frozenset()) -> str | None:
    """Return, in one clause, that clearly another model answered; ``None``: the same one, or nothing is said."""
    if not asked or not answered or same_model(asked, answered, aliases):
        return None
    return f"{_shown(answered)} answered, where {_shown(asked)} was asked for"


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")
