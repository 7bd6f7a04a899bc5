"""Properties of the tree that are easy to lose."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "kvlab"


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_below_the_experiments_knows_them():
    above = {"command", "api.py", "loaded.py"}
    for path in PACKAGE.rglob("*.py"):
        if "experiments" in path.parts or above & {path.name, *path.relative_to(PACKAGE).parts}:
            continue
        assert not [name for name in imports(path) if name.startswith("kvlab.experiments")], path


def test_the_store_knows_no_other_room_but_what_it_stores():
    allowed = (
        "kvlab.store", "kvlab.errors", "kvlab.escape", "kvlab.records", "kvlab.timing.clock", "kvlab.timing.stamps", "kvlab.machine_load",
    )  # fmt: skip
    for path in (PACKAGE / "store").glob("*.py"):
        assert not [n for n in imports(path) if n.startswith("kvlab") and not n.startswith(allowed)], path


@pytest.mark.parametrize(
    "module",
    [
        "kvlab",
        "kvlab.command.cli",
        "kvlab.command.runner",
        "kvlab.compression.datasets",
        "kvlab.scoring",
        "kvlab.experiments.token_sweep",
        "kvlab.experiments.prefix_hit_miss",
        "kvlab.experiments.prefix_hit_miss.plots",
        "kvlab.experiments.context_limit_probe",
        "kvlab.vram",
        "kvlab.endpoints.offline",
        "kvlab.compression.engine",
        "kvlab.compression.policies",
        "kvlab.experiments.batch_benchmark",
        "kvlab.load.recorder",
        "kvlab.laws.learn",
        "kvlab.laws.events",
    ],
)
def test_importing_brings_no_engine_and_no_plots(module):
    code = f"import sys, {module}; print([m for m in ('torch', 'vllm', 'transformers', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_key_of_the_settings_is_in_the_example():
    from kvlab.settings import Settings

    text = (ROOT / ".env.example").read_text()
    assert [key.upper() for key in Settings.model_fields if f"\n{key.upper()}=" not in text] == []


def test_the_example_is_a_valid_file_that_sets_nothing(monkeypatch):
    from kvlab.settings import load_settings

    monkeypatch.setenv("KVLAB_ENV_FILE", str(ROOT / ".env.example"))
    settings = load_settings()
    assert not settings.is_remote
    assert settings.max_tokens is None


def test_the_tree_speaks_of_no_machine():
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, files.split("\0")):
        if (
            name.endswith((".py", ".md", ".ipynb", ".toml", ".yaml", "Makefile", ".json"))
            and (ROOT / name).exists()
        ):
            assert str(ROOT) + "/" not in (ROOT / name).read_text(encoding="utf-8"), name


def test_no_file_is_longer_than_can_be_read_at_once():
    lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {str(path): count for path, count in lines.items() if count > 400} == {}
