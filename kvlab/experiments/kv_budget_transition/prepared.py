"""The dataset of a run, made once and kept: the same parameters give the same manifest.

Binning needs a tokenizer, which takes seconds to load, and a dataset of hundreds of contexts takes
longer still. So a manifest is kept in the cache folder under the hash of all that it follows from:
the dataset's parameters, the files that it is read from, the tokenizer's name, kvlab's version.
"""

import hashlib
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from kvlab import paths
from kvlab.datasets import DatasetSpec, Manifest, prepare
from kvlab.datasets import manifest as manifests
from kvlab.datasets import tokenizer as tokenizers
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.settings import Settings, load_settings
from kvlab.store.database import to_json


def manifest(params: KVBudgetTransitionParams) -> Manifest:
    """Return the dataset of ``params``: out of the cache, or made now.

    Raises:
        InputError: A file, a task or the tokenizer is wrong.
    """
    settings = load_settings()
    return _manifest(
        path_of(params, settings), params.dataset.model_dump_json(), tokenizer_name(params, settings)
    )


@lru_cache(maxsize=4)
def _manifest(path: Path, spec_json: str, tokenizer: str | None) -> Manifest:
    if path.is_file():
        return manifests.load(path)
    found = prepare(DatasetSpec.model_validate_json(spec_json), tokenizers.load(tokenizer))
    path.parent.mkdir(parents=True, exist_ok=True)
    found.write(path)
    return found


def tokenizer_name(params: KVBudgetTransitionParams, settings: Settings) -> str | None:
    """Return whose tokenizer counts; ``None``: the packaged model's."""
    own = params.engine.model or settings.kvlab_model
    return params.tokenizer or (own if params.engine.name == "transformers_kv" else None)


def path_of(params: KVBudgetTransitionParams, settings: Settings) -> Path:
    """Return where the manifest of ``params`` is kept, whether it is there or not."""
    spec = params.dataset
    named = (spec.folder("path"), spec.folder("config_path"))
    files = [_digest(folder) for folder in named if folder is not None]
    grounds = [spec.model_dump(mode="json"), files, tokenizer_name(params, settings), version("kvlab")]
    digest = hashlib.sha256(to_json(grounds).encode()).hexdigest()[:16]
    return paths.cache_dir().resolve() / "datasets" / f"{spec.name}__{spec.label}-{digest}" / "manifest.json"


@lru_cache(maxsize=8)
def _digest(path: Path) -> str:
    """Return the hash of a file, or of all files of a folder; of nothing, where there is nothing."""
    files = sorted(item for item in path.rglob("*") if item.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
