"""A long document that no other request shares: the token sweep's isolated manual.

The marker comes first of all, so that it stands in the first block of the cache and nothing after
it can match another document's blocks; and again in every section.
"""

import hashlib
import random
from typing import Any

SYSTEM = "{marker} is the SESSION_PREFIX_HASH of this conversation. Answer from the manual, in one sentence."
QUESTION = "Which valve does the manual name first, and what does it say about it?"

_PARTS = (
    "intake valve", "bypass valve", "relief valve", "coolant pump", "bearing housing", "drive coupling",
    "pressure sensor", "control cabinet", "filter cartridge", "heat exchanger", "safety interlock", "gear train",
)  # fmt: skip
_ACTIONS = (
    "inspect", "lubricate", "tighten", "replace", "calibrate", "drain", "flush", "isolate", "vent", "align",
)  # fmt: skip
_REASONS = (
    "wear shows on the outer ring", "the reading drifts by more than two percent", "oil is found below the seal",
    "the noise changes with load", "the temperature does not settle", "a restart has failed twice",
    "the shift log mentions vibration", "the supply pressure falls at night",
)  # fmt: skip


def marker(isolation_id: str, tag: str) -> str:
    """Return the marker of one attempt: 16 hexadecimal digits that no other attempt has."""
    return hashlib.sha256(f"{isolation_id}/{tag}".encode()).hexdigest()[:16]


def manual(seed: int, sections: int, mark: str) -> str:
    """Return a manual of ``sections`` numbered sections, the same for the same seed but for the marker."""
    draw = random.Random(seed)  # noqa: S311 - prose, not cryptography
    return "\n".join(_section(draw, number, mark) for number in range(1, sections + 1))


def _section(draw: random.Random, number: int, mark: str) -> str:
    part, other = draw.sample(_PARTS, 2)
    action, then = draw.sample(_ACTIONS, 2)
    hours, newton_metres = draw.randrange(50, 5000, 50), draw.randrange(4, 90)
    return (
        f"Section {number} [{mark}]: {part}. Every {hours} hours, {action} the {part} and {then} the {other}, "
        f"at most {newton_metres} newton metres. Do it sooner if {draw.choice(_REASONS)}."
    )


def build(mark: str, text: str, *, api: str, question: str, marker_role: str) -> dict[str, Any]:
    """Return the prompt around a cut of the manual, as a request body carries it.

    Args:
        mark: The marker.
        text: The cut.
        api: ``chat`` gives ``messages``, ``completions`` a ``prompt``.
        question: Asked after the document, the same in every request.
        marker_role: ``system``, or ``user`` for templates that know no system message.
    """
    head = SYSTEM.format(marker=mark)
    body = f"Manual:\n{text}\n\nQuestion: {question}"
    if api == "completions":
        return {"prompt": f"{head}\n\n{body}\nAnswer:"}
    if marker_role == "user":
        return {"messages": [{"role": "user", "content": f"{head}\n\n{body}"}]}
    return {"messages": [{"role": "system", "content": head}, {"role": "user", "content": body}]}


def template_hash() -> str:
    """Return a hash of everything that turns a cut into a prompt: it names the template in a manifest."""
    shapes = [
        build("MARK", "TEXT", api=api, question=QUESTION, marker_role=role)
        for api in ("chat", "completions")
        for role in ("system", "user")
    ]
    return digest(shapes, manual(0, 3, "MARK"))


def digest(*parts: object) -> str:
    """Return the 16 hexadecimal digits that name what prompts are made of in a manifest."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
