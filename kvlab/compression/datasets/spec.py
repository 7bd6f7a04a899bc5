"""What a run asks for: which dataset, how long, how many, in how many bins."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kvlab.compression.datasets import longbench_tasks
from kvlab.compression.datasets.invalid import as_input_error

Name = Literal["synthetic", "longbench", "multidoc_qa"]
Tokens = Annotated[int, Field(ge=16, le=4_000_000)]
Number = Annotated[int, Field(ge=1, le=100_000)]
Task = Literal["single_needle", "multi_key", "multi_value", "multi_query", "variable_tracking"]
DEFAULT_BINS = 5

#: Fields that mean nothing for the other datasets; setting one there is a mistake.
_ONLY_FOR: dict[str, tuple[Name, ...]] = {
    "task": ("longbench",),
    "config_path": ("longbench",),
    "unscored": ("longbench",),
    "max_length_tokens": ("longbench",),
    "truncation": ("longbench",),
    "tasks": ("synthetic",),
    "path": ("longbench", "multidoc_qa"),
    "n_examples": ("longbench", "multidoc_qa"),
    "lengths_tokens": ("synthetic", "multidoc_qa"),
    "n_documents": ("multidoc_qa",),
    "gold_position": ("multidoc_qa",),
}


class DatasetSpec(BaseModel):
    """A dataset to prepare: frozen, strict, no unknown keys.

    Attributes:
        name: ``synthetic``, ``longbench`` or ``multidoc_qa``.
        task: LongBench's name of a task.
        tasks: Synthetic tasks, taken in turn.
        path: LongBench's data.zip, or its folder or file (None: the hub); the multi-document file.
        config_path: LongBench's ``config`` folder, for its own templates and generation lengths.
        lengths_tokens: Context lengths: exact for ``synthetic`` (``n_per_bin`` examples of each),
            upper limits for ``multidoc_qa``, in turn.
        n_documents: Documents in a multi-document context, in turn; exclusive with its lengths.
        n_examples: How many rows to use: all for ``longbench``, ``n_bins * n_per_bin`` for
            ``multidoc_qa`` where it is None.
        n_bins: Length bins; None: one per length for ``synthetic``, else 5.
        n_per_bin: Examples asked in each bin.
        sampling: ``uniform``, or ``focus_transition`` with the next three.
        focus_bins: Bins that get more examples.
        base_n_per_bin: Examples in each other bin; None: ``n_per_bin``.
        focus_n_per_bin: Examples in each focus bin; None: three times as many as in the others.
        pinned: Ask exactly these examples, whatever the sampling says.
        gold_position: Index from 0 or, as a float, the share of the way to the last; None: drawn.
        max_length_tokens: Longest prompt before its chat template; None: no limit.
        truncation: What becomes of a longer one: its ``middle`` is cut out, it is left out
            (``drop``), or the dataset is refused (``refuse``).
        manifest: A ``dataset_manifest.json``: ask its examples, in its bins; then all else is the manifest's.
        template: A template of the user's, with ``{context}`` and ``{input}``.
        chat: Whether the chat template goes around the prompt; None: as the dataset does.
        max_new_tokens: Generation length; None: the dataset's.
        unscored: Take a LongBench task that kvlab cannot score.
        seed: Of generation and sampling.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Name = "synthetic"
    task: str | None = None
    tasks: list[Task] = Field(default=["single_needle"], min_length=1)
    manifest: str | None = None
    path: str | None = None
    config_path: str | None = None
    lengths_tokens: list[Tokens] = Field(default=[400, 700, 1100, 1500, 1900], min_length=1, max_length=200)
    n_documents: list[Number] | None = Field(default=None, min_length=1, max_length=200)
    n_examples: Number | None = None
    n_bins: Annotated[int, Field(ge=1, le=200)] | None = None
    n_per_bin: Number = 8
    sampling: Literal["uniform", "focus_transition"] = "uniform"
    focus_bins: list[Annotated[int, Field(ge=0)]] = []
    base_n_per_bin: Number | None = None
    focus_n_per_bin: Number | None = None
    pinned: list[str] = []
    gold_position: Annotated[int, Field(ge=0)] | Annotated[float, Field(ge=0, le=1)] | None = None
    max_length_tokens: Tokens | None = None
    truncation: Literal["middle", "drop", "refuse"] = "middle"
    template: str | None = None
    chat: bool | None = None
    max_new_tokens: Number | None = None
    unscored: bool = False
    seed: int = Field(default=1337, ge=0, lt=2**32)

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> Self:
        """Validate ``values``.

        Raises:
            InputError: Naming the first wrong field and its value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise as_input_error(error, "dataset") from None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.manifest is not None:
            return self._check_alone()
        for field, names in _ONLY_FOR.items():
            if self.name not in names and getattr(self, field) != self._default(field):
                raise ValueError(
                    f"{field} means nothing for {self.name}; it belongs to {' and '.join(names)}"
                )
        if self.name == "longbench" and self.task is None:
            raise ValueError(f"task is missing; name one of {', '.join(longbench_tasks.TASKS)}")
        if self.name == "multidoc_qa" and self.path is None:
            raise ValueError(
                "path is missing; name a .jsonl or .jsonl.gz file in the Lost in the Middle format"
            )
        if len(set(self.lengths_tokens)) < len(self.lengths_tokens):
            raise ValueError("lengths_tokens holds a length twice; to have more of one, raise n_per_bin")
        if self.n_documents is not None and self.lengths_tokens != self._default("lengths_tokens"):
            raise ValueError("n_documents and lengths_tokens are both set; give one of them")
        if self.sampling == "focus_transition" and not self.focus_bins:
            raise ValueError("focus_bins is empty; sampling focus_transition needs at least one bin")
        if self.sampling == "uniform" and (self.focus_bins or self.base_n_per_bin or self.focus_n_per_bin):
            raise ValueError("focus_bins and its numbers need sampling: focus_transition")
        if any(bin_idx >= self.bins for bin_idx in self.focus_bins):
            raise ValueError(f"focus_bins names a bin above the last, {self.bins - 1}")
        return self

    def _check_alone(self) -> Self:
        for field in self.meaningless(None):
            if getattr(self, field) != self._default(field):
                raise ValueError(f"{field} is set beside manifest, which has all of a dataset; leave it out")
        return self

    @classmethod
    def meaningless(cls, name: str | None) -> list[str]:
        """Return the fields that mean nothing for a dataset of this name; ``None``: for one out of a manifest."""
        if name is None:
            return [field for field in cls.model_fields if field != "manifest"]
        return [field for field, names in _ONLY_FOR.items() if name not in names]

    @classmethod
    def _default(cls, field: str) -> object:
        """Return a field's default: what was stored with all fields written out must be valid again."""
        return cls.model_fields[field].default

    @property
    def bins(self) -> int:
        """The number of bins."""
        if self.n_bins is not None:
            return self.n_bins
        return len(self.lengths_tokens) if self.name == "synthetic" else DEFAULT_BINS

    @property
    def base(self) -> int:
        """Examples wanted in a bin that is not in focus."""
        return self.base_n_per_bin or self.n_per_bin

    @property
    def focus(self) -> int:
        """Examples wanted in a focus bin."""
        return self.focus_n_per_bin or 3 * self.base

    @property
    def most(self) -> int:
        """The largest number of examples wanted in any bin."""
        return self.n_per_bin if self.sampling == "uniform" else max(self.base, self.focus)

    @property
    def label(self) -> str:
        """The task's part of the dataset's id."""
        return {"synthetic": "+".join(self.tasks), "longbench": self.task or ""}.get(self.name, self.name)

    def folder(self, field: Literal["path", "config_path", "manifest"]) -> Path | None:
        """Return a path of the user's with ``~`` expanded; None where it is not set."""
        value = getattr(self, field)
        return None if value is None else Path(value).expanduser()
