"""The one form that every dataset is brought into: a question, the context that answers it, the answers."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from kvlab.errors import InputError
from kvlab.scoring.metrics import Score, score

Language = Literal["en", "zh"]


@dataclass(frozen=True)
class Example:
    """One question about one context.

    Attributes:
        example_id: ``{task}-{16 hexadecimal digits}`` of the content: the same on every run.
        question: What is asked, as the template's ``{input}``.
        context: What it is asked about, as the template's ``{context}``; the part that a KV policy
            may compress.
        answers: At least one gold answer. ``meta["answer_mode"]`` says how to read several: ``any``
            (each is right by itself) or ``all`` (the answer must hold every one).
        meta: JSON only. Always ``task``, ``language`` (``en`` or ``zh``), ``context_id`` (equal for
            equal source contexts: the cluster of the statistics), ``source``, ``answer_mode`` and
            ``metric`` (the score that counts: ``f1``, ``contains``, or ``none`` for a task that
            kvlab cannot score). Where they apply: ``answer_prefix``, ``max_new_tokens``,
            ``first_line_only``, ``answer_pattern`` (a regular expression that an answer of the
            right form matches), ``truncated_tokens``, ``depths``, ``gold_index``.
    """

    example_id: str
    question: str
    context: str
    answers: tuple[str, ...]
    meta: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the example as JSON types; ``from_json`` is the inverse."""
        return {
            "example_id": self.example_id,
            "question": self.question,
            "context": self.context,
            "answers": list(self.answers),
            "meta": dict(self.meta),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Build an example from its JSON form.

        Raises:
            InputError: A field is missing or of the wrong type, or there is no answer.
        """
        for field in ("example_id", "question", "context"):
            if not isinstance(value.get(field), str):
                raise InputError(f"example.{field}", value.get(field), "must be a text")
        name, answers, meta = value["example_id"], value.get("answers"), value.get("meta")
        if not isinstance(answers, list) or not answers or not all(isinstance(a, str) for a in answers):
            raise InputError("example.answers", answers, f"of {name} must be a list of texts, at least one")
        if not isinstance(meta, Mapping):
            raise InputError("example.meta", meta, f"of {name} must be an object")
        return cls(name, value["question"], value["context"], tuple(answers), dict(meta))

    def score(self, text: str) -> Score | None:
        """Score an answer by the example's own rules; None where kvlab has no score for its task."""
        if self.meta["metric"] == "none":
            return None
        return score(
            text,
            self.answers,
            self.meta["language"],
            answer_mode=self.meta["answer_mode"],
            first_line_only=bool(self.meta.get("first_line_only")),
        )

    @property
    def max_new_tokens(self) -> int | None:
        """How many tokens the answer may have; None where the dataset does not say."""
        return self.meta.get("max_new_tokens")


def canonical_json(value: object) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def content_id(prefix: str, *content: object) -> str:
    """Return ``{prefix}-{16 hexadecimal digits}`` of the SHA-256 of the content's canonical JSON."""
    return f"{prefix}-{hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]}"
