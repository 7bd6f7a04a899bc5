"""``manifest.json``: the evaluation set itself, enough to run it elsewhere without its source."""

import hashlib
import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kvlab.bounded import json_value
from kvlab.compression.datasets import binning
from kvlab.compression.datasets.example import Example, canonical_json
from kvlab.compression.datasets.invalid import as_input_error
from kvlab.compression.datasets.template import Template, template_hash
from kvlab.errors import InputError
from kvlab.runs.files import write_atomic

FORMAT = 1


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TokenizerName(_Model):
    """Which tokenizer the lengths are in: its name, and the ``sha256:`` of what it does."""

    name: str
    revision: str


class PromptTemplate(_Model):
    """The template, with whose it is (``kvlab``, ``longbench`` or ``user``) and its hash."""

    text: str
    chat: bool
    origin: str
    hash: str


class BinCount(_Model):
    """A bin: how many examples the dataset has there, how many were wanted, how many are asked.

    ``wanted`` is None for pinned examples, which are not wanted by bin.
    """

    bin_idx: int
    available: int
    wanted: int | None
    chosen: int


class ManifestEntry(_Model):
    """An example's place: its bin, and its context's length in tokens, tokenised by itself."""

    example_id: str
    bin_idx: int = Field(ge=0)
    token_len: int = Field(ge=0)


class Manifest(_Model):
    """A dataset ready to be asked.

    Attributes:
        format: Of this file.
        kvlab_version: That wrote it.
        dataset_id: ``{name}__{task}``.
        dataset_hash: ``sha256:`` over tokenizer, template, bin edges, entries and examples: two
            manifests with the same hash ask the same questions.
        name: ``synthetic``, ``longbench`` or ``multidoc_qa``.
        task: The task, or several joined by ``+``.
        source: Where the rows came from, with a checksum where it is a file; no path.
        tokenizer: What lengths are counted with.
        template: What examples are rendered with.
        n_bins: Number of bins.
        n_per_bin: Examples wanted in each, before focus.
        sampling: ``uniform``, ``focus_transition`` or ``pinned``.
        seed: Of generation and sampling.
        spec: The parameters that it was prepared with, paths left out.
        bin_edges: Upper edges in tokens, ascending, one per bin; the last is the longest length.
        bins: What each bin has and lacks.
        excluded: How many examples of the source were left out, by reason.
        entries: Sorted by (token_len, example_id).
        examples: The whole examples, in the order of the entries.
    """

    format: int = FORMAT
    kvlab_version: str
    dataset_id: str
    dataset_hash: str
    name: str
    task: str
    source: str
    tokenizer: TokenizerName
    template: PromptTemplate
    n_bins: int = Field(ge=1)
    n_per_bin: int = Field(ge=1)
    sampling: str
    seed: int
    spec: dict[str, Any]
    bin_edges: list[int]
    bins: list[BinCount]
    excluded: dict[str, int]
    entries: list[ManifestEntry]
    examples: list[dict[str, Any]]

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.format != FORMAT:
            raise ValueError(f"format is {self.format}, and this kvlab reads {FORMAT}")
        try:
            binning.check(self.bin_edges)
            ids = [Example.from_json(example).example_id for example in self.examples]
            wrong = next(
                (e for e in self.entries if binning.index(e.token_len, self.bin_edges) != e.bin_idx), None
            )
        except InputError as error:
            raise ValueError(str(error)) from None
        if len(self.bin_edges) != self.n_bins:
            raise ValueError(f"bin_edges holds {len(self.bin_edges)} edges for {self.n_bins} bins")
        if [entry.example_id for entry in self.entries] != ids:
            raise ValueError("entries and examples do not name the same examples in the same order")
        if wrong is not None:
            raise ValueError(
                f"entries puts {wrong.example_id} into bin {wrong.bin_idx}, where it does not belong"
            )
        if self.template.hash != template_hash(self.prompt_template):
            raise ValueError("template.hash does not fit template.text: the file was edited; prepare it anew")
        if self.dataset_hash != content_hash(self.model_dump()):
            raise ValueError("dataset_hash does not fit the content: the file was edited; prepare it anew")
        return self

    @property
    def prompt_template(self) -> Template:
        """The template, as ``render`` takes it."""
        return Template(self.template.text, self.template.chat, self.template.origin)

    def items(self) -> list[tuple[ManifestEntry, Example]]:
        """Return every entry with its example, shortest context first."""
        return [(e, Example.from_json(x)) for e, x in zip(self.entries, self.examples, strict=True)]

    @property
    def shortfalls(self) -> list[BinCount]:
        """The bins that have fewer examples than were wanted."""
        return [count for count in self.bins if count.wanted is not None and count.chosen < count.wanted]

    def as_bytes(self) -> bytes:
        """Return the file's content: the same manifest gives the same bytes."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()

    def write(self, path: Path) -> None:
        """Write ``manifest.json`` whole or not at all."""
        write_atomic(path, self.as_bytes())


def content_hash(values: dict[str, Any]) -> str:
    """Return the ``dataset_hash`` of a manifest's fields."""
    parts = [values["dataset_id"], values["tokenizer"]["revision"], values["template"]["hash"]]
    parts += [values[key] for key in ("bin_edges", "entries", "examples")]
    return f"sha256:{hashlib.sha256(canonical_json(parts).encode()).hexdigest()}"


def build(**fields: Any) -> Manifest:  # noqa: ANN401 - the fields of Manifest, checked by it
    """Return a manifest of its fields, with ``format``, ``kvlab_version`` and ``dataset_hash`` added."""
    from kvlab import __version__

    values = {"format": FORMAT, "kvlab_version": __version__, **fields}
    return Manifest.model_validate({**values, "dataset_hash": content_hash(values)})


def load(path: Path) -> Manifest:
    """Read a manifest, and check that it is whole and unchanged.

    Raises:
        InputError: Naming the field that is missing or wrong.
    """
    try:
        content = json_value(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise InputError("manifest", str(path), "is not there; prepare the dataset first") from None
    except (OSError, ValueError) as error:
        raise InputError("manifest", str(path), f"is not JSON ({error}); prepare the dataset anew") from None
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise as_input_error(error, path.name) from None
