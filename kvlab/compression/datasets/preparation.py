"""From a spec to a manifest: load, cut, count, bin, sample."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from tqdm.auto import tqdm

from kvlab.compression.datasets import (
    binning,
    longbench,
    manifest,
    multidoc_qa,
    rows,
    sampling,
    synthetic,
    truncation,
)
from kvlab.compression.datasets.example import Example
from kvlab.compression.datasets.manifest import BinCount, Manifest, ManifestEntry
from kvlab.compression.datasets.sampling import Entry, Sample
from kvlab.compression.datasets.spec import DatasetSpec
from kvlab.compression.datasets.template import Template, render, template_hash
from kvlab.compression.datasets.tokenizer import Tokenizer
from kvlab.errors import InputError


class _Source(NamedTuple):
    name: str
    total: int
    examples: Iterator[Example]
    template: Template


def prepare(spec: DatasetSpec, tokenizer: Tokenizer) -> Manifest:
    """Prepare a dataset: the same spec, source and tokenizer give the same bytes.

    Args:
        spec: What to prepare.
        tokenizer: The model's; lengths are in its tokens.

    Raises:
        InputError: Something in the spec, the files or the rows is wrong, named in one line.
    """
    source = _open(spec, tokenizer)
    template = _template(spec, source.template)
    excluded = Counter[str]()
    known, lengths = dict[str, Example](), dict[str, int]()
    bar = tqdm(source.examples, total=source.total, desc="prepare", unit="example", delay=2)
    for example in bar:
        if example.example_id in known:
            excluded["duplicate"] += 1
            continue
        fitted = _fit(_with_length(example, spec.max_new_tokens), template, spec, tokenizer)
        if fitted is None:
            excluded["too_long"] += 1
            continue
        known[fitted.example_id] = fitted
        lengths[fitted.example_id] = tokenizer.count(fitted.context)
    edges = binning.edges(list(lengths.values()), spec.bins)
    entries = [Entry(name, binning.index(length, edges), length) for name, length in lengths.items()]
    sample = _sample(spec, entries)
    return manifest.build(
        dataset_id=f"{spec.name}__{spec.label}",
        name=spec.name,
        task=spec.label,
        source=source.name,
        tokenizer={"name": tokenizer.name, "revision": tokenizer.revision},
        template={
            "text": template.text,
            "chat": template.chat,
            "origin": template.origin,
            "hash": template_hash(template),
        },
        n_bins=spec.bins,
        n_per_bin=spec.n_per_bin,
        sampling="pinned" if spec.pinned else spec.sampling,
        seed=spec.seed,
        spec=spec.model_dump(mode="json", exclude={"path", "config_path"}),
        bin_edges=edges,
        bins=[count.model_dump() for count in _counts(spec, entries, sample)],
        excluded=dict(sorted(excluded.items())),
        entries=[ManifestEntry(**entry._asdict()).model_dump() for entry in sample.entries],
        examples=[known[entry.example_id].as_json() for entry in sample.entries],
    )


def _open(spec: DatasetSpec, tokenizer: Tokenizer) -> _Source:
    if spec.name == "synthetic":
        found = synthetic.examples(spec.tasks, spec.lengths_tokens, spec.most, tokenizer, seed=spec.seed)
        total = len(spec.lengths_tokens) * spec.most
        return _Source(synthetic.SOURCE, total, found, synthetic.TEMPLATE)
    if spec.name == "longbench":
        return _longbench(spec)
    path = spec.folder("path")
    if path is None or not path.is_file():
        raise InputError("path", spec.path, "is not there; name a .jsonl or .jsonl.gz file")
    loaded = rows.read(path)
    sizes = [multidoc_qa.Size(documents=n) for n in spec.n_documents or []]
    sizes = sizes or [multidoc_qa.Size(tokens=n) for n in spec.lengths_tokens]
    total = spec.n_examples or min(spec.bins * spec.most, len(loaded.rows))
    found = multidoc_qa.examples(
        loaded, sizes, total, tokenizer, gold_position=spec.gold_position, seed=spec.seed
    )
    return _Source(loaded.source, total, found, multidoc_qa.TEMPLATE)


def _longbench(spec: DatasetSpec) -> _Source:
    task, config = str(spec.task), spec.folder("config_path")
    loaded = longbench.load(task, spec.folder("path"), unscored=spec.unscored)
    if spec.n_examples is not None:
        loaded = loaded._replace(rows=loaded.rows[: spec.n_examples])
    length = longbench.generation_length(task, config)
    found = longbench.examples(task, loaded, max_new_tokens=length, unscored=spec.unscored)
    return _Source(loaded.source, len(loaded.rows), found, longbench.template(task, config))


def _template(spec: DatasetSpec, default: Template) -> Template:
    chosen = default if spec.template is None else Template(spec.template, default.chat, "user")
    chosen = chosen if spec.chat is None else replace(chosen, chat=spec.chat)
    chosen.parts()  # refuses a malformed one before any row is read
    return chosen


def _with_length(example: Example, max_new_tokens: int | None) -> Example:
    if max_new_tokens is None:
        return example
    return replace(example, meta=dict(example.meta) | {"max_new_tokens": max_new_tokens})


def _fit(example: Example, template: Template, spec: DatasetSpec, tokenizer: Tokenizer) -> Example | None:
    limit, rendered = spec.max_length_tokens, render(example, template)
    if limit is None:
        return example
    if spec.truncation == "middle":
        return truncation.middle(example, template, limit, tokenizer)
    tokens = tokenizer.count(rendered.text)
    if tokens <= limit:
        return example
    if spec.truncation == "drop":
        return None
    fix = (
        f"is below the {tokens} tokens of {example.example_id}; raise it, or set truncation to middle or drop"
    )
    raise InputError("max_length_tokens", limit, fix)


def _sample(spec: DatasetSpec, entries: Sequence[Entry]) -> Sample:
    if spec.pinned:
        return sampling.pinned(entries, spec.pinned)
    if spec.sampling == "uniform":
        return sampling.uniform(entries, spec.bins, spec.n_per_bin, seed=spec.seed)
    return sampling.focus_transition(
        entries,
        spec.bins,
        focus_bins=spec.focus_bins,
        base_n_per_bin=spec.base,
        focus_n_per_bin=spec.focus,
        seed=spec.seed,
    )


def _counts(spec: DatasetSpec, entries: Sequence[Entry], sample: Sample) -> Iterator[BinCount]:
    available = Counter(entry.bin_idx for entry in entries)
    chosen = Counter(entry.bin_idx for entry in sample.entries)
    missing = {shortfall.bin_idx: shortfall.wanted for shortfall in sample.shortfalls}
    for bin_idx in range(spec.bins):
        got = chosen[bin_idx]
        wanted = None if spec.pinned else missing.get(bin_idx, got)
        yield BinCount(bin_idx=bin_idx, available=available[bin_idx], wanted=wanted, chosen=got)
