"""The tokenizer that lengths are counted with, and the text that its chat template puts around a prompt."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from kvlab import paths
from kvlab.compression.datasets.example import canonical_json
from kvlab.errors import InputError

_MARK = "@@kvlab-user-text@@"


class Frame(NamedTuple):
    """What a chat template puts before and after the user's text; the tail opens the assistant's turn."""

    header: str
    tail: str


@dataclass(frozen=True)
class Tokenizer:
    """A Hugging Face tokenizer with a name that means the same on every machine.

    Attributes:
        hf: The tokenizer itself.
        name: A hub name, or the last part of a folder's path; never a whole path.
        revision: ``sha256:`` of its vocabulary, merges and chat template.
    """

    hf: Any
    name: str
    revision: str

    @classmethod
    def wrap(cls, hf: Any, name: str) -> "Tokenizer":  # noqa: ANN401 - transformers has no useful types
        """Wrap a tokenizer that is loaded already (an engine's own)."""
        backend = getattr(hf, "backend_tokenizer", None)
        body = backend.to_str() if backend is not None else canonical_json(hf.get_vocab())
        digest = hashlib.sha256(f"{body}\0{hf.chat_template}".encode()).hexdigest()
        return cls(hf, name, f"sha256:{digest}")

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, without special tokens of the tokenizer's own."""
        return list(self.hf.encode(text, add_special_tokens=False))

    def decode(self, ids: list[int]) -> str:
        """Return the text of ``ids``, without special tokens."""
        return str(self.hf.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def count(self, text: str) -> int:
        """Return how many tokens ``text`` has, without special tokens."""
        return len(self.encode(text))

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the first and the past-the-end character of each token of ``text``.

        Raises:
            InputError: The tokenizer is a slow one, which cannot say.
        """
        if not self.hf.is_fast:
            raise InputError("tokenizer", self.name, "is a slow one and cannot cut texts; name a fast one")
        coded = self.hf(text, add_special_tokens=False, return_offsets_mapping=True)
        return [(int(start), int(end)) for start, end in coded["offset_mapping"]]

    @cached_property
    def start_ids(self) -> list[int]:
        """The ids that the tokenizer itself puts before a text (BOS), so that a prompt gets them once."""
        bare, whole = self.encode("text"), list(self.hf.encode("text"))
        return whole[: whole.index(bare[0])] if bare and bare[0] in whole else []

    @cached_property
    def frame(self) -> Frame | None:
        """The chat template around a user's text; None where the tokenizer has no chat template.

        Raises:
            InputError: The template does not carry the user's text once and unchanged.
        """
        if self.hf.chat_template is None:
            return None
        # Templates of reasoning models know `enable_thinking`; the others ignore it.
        text = self.hf.apply_chat_template(
            [{"role": "user", "content": _MARK}],
            add_generation_prompt=True,
            tokenize=False,
            enable_thinking=False,
        )
        parts = str(text).split(_MARK)
        if len(parts) != 2:
            raise InputError("tokenizer", self.name, "has a chat template that changes the user's text")
        return Frame(*parts)


def load(name: str | None, *, say: Callable[[str], None] = print) -> Tokenizer:
    """Load the tokenizer that ``name`` means; what is on this machine is used without a network.

    Args:
        name: None for the packaged model's, else a folder or a hub name.
        say: Takes one line of progress when the packaged model has to be prepared.

    Raises:
        InputError: There is no such tokenizer here or on the hub.
    """
    from kvlab.serving.model import resolve_model

    if name is None:
        model = resolve_model(None, cache_dir=paths.cache_dir(), say=say)
        return Tokenizer.wrap(_read(model.source, model.served_name), model.served_name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return Tokenizer.wrap(_read(str(folder), name), folder.resolve().name)
    if name[:1] in ("/", ".", "~") or name.count("/") > 1:
        raise InputError("tokenizer", name, "does not exist; name a tokenizer folder or a hub name")
    return Tokenizer.wrap(_read(name, name), name)


def _read(source: str, name: str) -> Any:  # noqa: ANN401
    from transformers import AutoTokenizer

    # The cache first: with a hub that does not answer, asking it takes minutes to fail.
    for local_only in (True, False):
        try:
            return AutoTokenizer.from_pretrained(source, local_files_only=local_only)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    fix = f"cannot be loaded ({reason[:160]}); name a folder with tokenizer.json, or a hub name"
    raise InputError("tokenizer", name, fix)
