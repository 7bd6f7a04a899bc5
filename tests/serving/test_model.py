import hashlib
import importlib.metadata
import json
import subprocess
from pathlib import Path

import pytest

from kvlab import paths
from kvlab.errors import InputError, KvlabError
from kvlab.serving import model
from kvlab.serving.model import model_is_prepared, resolve_model


@pytest.fixture
def said():
    return []


@pytest.fixture
def resolve(tmp_path, said):
    return lambda name: resolve_model(name, cache_dir=tmp_path / "cache", say=said.append)


@pytest.fixture
def converter(tmp_path, monkeypatch):
    """A packaged model of a few bytes, and a converter that is quick; counts its calls."""
    gguf = tmp_path / "package" / "tiny.gguf"
    gguf.parent.mkdir()
    gguf.write_bytes(b"weights")
    calls = []

    def run(command, **_):
        target = Path(command[-1])
        target.mkdir()
        (target / "config.json").write_text('{"max_position_embeddings": 8192}')
        calls.append(target)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(model, "packaged_gguf", lambda: gguf)
    monkeypatch.setattr(model.subprocess, "run", run)
    return calls


def make_folder(path, config='{"max_position_embeddings": 2048}'):
    path.mkdir()
    (path / "config.json").write_text(config)
    (path / "model.safetensors").write_bytes(b"1234")
    return path


def test_a_folder_is_served_under_its_name(resolve, tmp_path, said):
    folder = make_folder(tmp_path / "mine")
    found = resolve(str(folder))
    assert (found.source, found.served_name, found.max_model_len) == (str(folder), "mine", 2048)
    assert not found.packaged
    assert found.is_local
    assert said == []


def test_a_folders_revision_notices_other_weights_and_other_config(resolve, tmp_path):
    folder = make_folder(tmp_path / "mine")
    revisions = {resolve(str(folder)).revision}
    (folder / "README.md").write_text("not a weight")
    assert resolve(str(folder)).revision in revisions
    (folder / "model.safetensors").write_bytes(b"12345")
    revisions.add(resolve(str(folder)).revision)
    (folder / "config.json").write_text("{}")
    revisions.add(resolve(str(folder)).revision)
    assert len(revisions) == 3
    assert all(each.startswith("folder-sha256:") for each in revisions)


def test_a_name_on_the_hub_is_passed_on(resolve):
    found = resolve("org/name")
    assert (found.source, found.served_name, found.revision) == ("org/name", "org/name", None)
    assert not found.is_local


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "~/nothing-here", "a/b/c"])
def test_a_path_that_does_not_exist_is_refused(resolve, name):
    with pytest.raises(InputError, match=r"KVLAB_MODEL: .* does not exist"):
        resolve(name)


def test_a_folder_that_is_no_model_is_refused(resolve, tmp_path):
    with pytest.raises(InputError, match=r"is a folder without config\.json"):
        resolve(str(tmp_path))


def test_a_file_is_refused(resolve, tmp_path):
    (tmp_path / "m.gguf").touch()
    with pytest.raises(InputError, match="is a file"):
        resolve(str(tmp_path / "m.gguf"))


def test_a_broken_config_is_refused(resolve, tmp_path):
    with pytest.raises(InputError, match=r"unreadable config\.json"):
        resolve(str(make_folder(tmp_path / "mine", "not json")))


@pytest.mark.parametrize("name", [None, ""])
def test_without_the_package_the_error_names_the_ways_out(resolve, monkeypatch, name):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(InputError, match=r"`cpu` and `gpu` extras .* set OPENAI_BASE_URL"):
        resolve(name)


def test_the_packaged_model_is_prepared_once(resolve, converter, tmp_path, said):
    assert not model_is_prepared(tmp_path / "cache")
    first, second = resolve(None), resolve(None)
    assert first == second
    assert len(converter) == 1
    assert said == ["preparing the packaged model, once, about 30 s"]
    assert model_is_prepared(tmp_path / "cache")
    assert first.packaged
    assert first.max_model_len == 8192
    assert first.revision == "sha256:" + hashlib.sha256(b"weights").hexdigest()
    assert json.loads((Path(first.source) / "config.json").read_text())


def test_a_half_made_folder_is_never_taken_and_goes(resolve, converter, tmp_path):
    made = Path(resolve(None).source)
    half = made.rename(made.with_name(f".{made.name}.tmp-99999"))
    assert not model_is_prepared(tmp_path / "cache")
    resolve(None)
    assert len(converter) == 2
    assert made.is_dir()
    assert not half.exists()
    half.mkdir()  # by a converter that outlived the process that started it
    resolve(None)
    assert len(converter) == 2
    assert not half.exists()


def test_a_failed_preparation_leaves_nothing_and_says_why(resolve, converter, tmp_path, monkeypatch):
    def run(command, **_):
        Path(command[-1]).mkdir()
        return subprocess.CompletedProcess(command, 1, "", "Traceback\nValueError: not a GGUF")

    monkeypatch.setattr(model.subprocess, "run", run)
    with pytest.raises(KvlabError, match="ValueError: not a GGUF"):
        resolve(None)
    assert [path for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()] == []


def test_a_cache_that_cannot_be_made_is_the_users_to_fix(converter, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="KVLAB_CACHE_DIR"):
        resolve_model(None, cache_dir=tmp_path / "file", say=print)


def test_the_cache_is_where_the_setting_says(monkeypatch, tmp_path):
    monkeypatch.setenv("KVLAB_CACHE_DIR", str(tmp_path))
    assert paths.cache_dir() == tmp_path
    monkeypatch.delenv("KVLAB_CACHE_DIR")
    assert paths.cache_dir().name == "kvlab"
