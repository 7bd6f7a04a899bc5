"""README and docs: every link leads somewhere, every command exists, every snippet marked as runnable runs."""

import ast
import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from benchmarks.servers.process import FakeServer
from kvlab.command.cli import app, main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
TEXTS = dict(zip(NAMES, (page.read_text(encoding="utf-8") for page in PAGES), strict=True))
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RUNNABLE = re.compile(r"^<!-- test: run -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXPERIMENTS = sorted(path.name for path in (ROOT / "params").iterdir())


def commands():
    """Return (page, words) of every command in a shell block, a table or a sentence."""
    found = []
    for name, text in TEXTS.items():
        shell = [body for language, body in FENCE.findall(text) if language == "bash"]
        inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
        joined = "\n".join(shell).replace("\\\n", " ")
        for line in [*joined.splitlines(), *inline]:
            for part in re.split(r"\s*(?:&&|;|\|\|)\s*", re.sub(r"\s#\s.*", "", line.strip())):
                part = part.removeprefix(".venv/bin/")
                if part.startswith(("kvlab ", "make ", "python -m ")):
                    found.append(pytest.param(part, id=f"{name}: {part}"))
    unique = {param.values[0]: param for param in found}
    return list(unique.values())


def leaf(words):
    """Return the command that the words name, and the words that are left for it."""
    command = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


def parts_of_benchmarks():
    tree = ast.parse((ROOT / "benchmarks" / "__main__.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "PARTS":
            return {key.value for key in node.value.keys}
    raise AssertionError("benchmarks/__main__.py has no PARTS")


def fields(experiment):
    """Return the parameters of an experiment, groups with dots, as the documentation's own tables have them."""
    sys.path.insert(0, str(ROOT / "docs" / "_build"))
    try:
        import tables
    finally:
        sys.path.pop(0)
    page = TEXTS[f"docs/experiments/{experiment}.md"]
    (kind,) = re.findall(r"<!-- build: params (\S+)", page)
    return {name for name, _, _ in tables._fields(kind.removeprefix("kvlab."), "")}


@pytest.mark.parametrize("line", commands())
def test_a_command_that_is_shown_exists(line):
    program, *words = shlex.split(line)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert [word for word in words if "=" not in word and word not in targets] == []
    elif program == "python":
        module = words[1]
        assert (
            (ROOT / f"{module.replace('.', '/')}.py").exists()
            or (ROOT / module.replace(".", "/") / "__main__.py").exists()
            or module == "pytest"
        )
        if module == "benchmarks" and "--only" in words and words[words.index("--only") + 1] != "NAME":
            assert words[words.index("--only") + 1] in parts_of_benchmarks()
    else:
        check_kvlab(words)


def check_kvlab(words):
    command, rest = leaf(words)
    assert not hasattr(command, "commands") or not rest or rest[0] == "STAGE", f"no such command: {words}"
    options = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
    assert [word for word in rest if re.match(r"--?[a-z]", word) and word not in {*options, "--help"}] == []
    experiment = "kv_budget_transition" if words[0] == "kv" else next(iter(rest), "NAME")
    if words[0] == "run" and experiment not in ("NAME", "all") and not experiment.startswith("-"):
        assert experiment in EXPERIMENTS
    for flag, value in itertools.pairwise(rest):
        if flag == "--profile" and experiment not in ("NAME", "all"):
            assert (ROOT / "params" / experiment / f"{value}.yaml").exists()
        elif flag == "-c" and not value.startswith("$") and value != "FILE":
            assert (ROOT / value).exists()
        elif flag == "--set" and experiment in EXPERIMENTS:
            assert value.partition("=")[0] in fields(experiment)


#: What sends nothing and deletes nothing is done as it is shown.
SAFE = ("plan", "experiments", "completion", "clean", "ls", "version", "validate")


def safe():
    lines = [param.values[0] for param in commands()]
    found = [shlex.split(line)[1:] for line in lines if line.startswith("kvlab ") and "--delete" not in line]
    return [
        words
        for words in found
        if SAFE.count(words[0])
        and not {"ID", "NAME", "SHELL", "|"} & {*words}
        and (words[0], len(words)) != ("plan", 1)
    ]


@pytest.mark.parametrize("words", safe(), ids=" ".join)
def test_a_command_that_changes_nothing_runs_as_it_is_shown(words, monkeypatch, outputs):
    if words == ["completion"]:
        words = ["completion", "bash"]
    monkeypatch.setattr(sys, "argv", ["kvlab", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert not outputs.exists()


def test_every_command_has_help():
    def names(command, before):
        inner = getattr(command, "commands", {})
        yield before
        for name, found in inner.items():
            yield from names(found, [*before, name])

    for words in names(get_command(app), []):
        assert CliRunner().invoke(app, [*words, "--help"]).exit_code == 0, words


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(name):
    text = FENCE.sub("", TEXTS[name])
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [
        target
        for target in targets
        if target and "://" not in target and not (ROOT / name).parent.joinpath(target).exists()
    ]
    assert missing == []


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].split()) <= 1200


@pytest.mark.parametrize("name", [name for name in NAMES if RUNNABLE.search(TEXTS[name])])
def test_snippets_run(name, point_at, outputs):
    """Those of a page run one after the other, as somebody would type them."""
    with FakeServer(base_ms=1, itl_ms=1, ms_per_uncached_token=0.02) as server:
        point_at(server)
        names = {"__name__": "__main__"}
        for code in RUNNABLE.findall(TEXTS[name]):
            code = code.replace("http://localhost:8000/v1", server.base_url).replace("my-model", "fake")
            exec(compile(code, name, "exec"), names)
    if "hit" in names:
        assert (names["cold"].state, names["hit"].state) == ("cold", "hit")


@pytest.mark.parametrize("name", NAMES)
def test_other_snippets_are_python(name):
    for language, body in FENCE.findall(TEXTS[name]):
        if language == "python":
            ast.parse(body)


def test_the_site_builds_without_warnings_and_needs_no_network(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//', text) == []
        assert re.findall(r'<link[^>]+rel="(?:stylesheet|preconnect)"[^>]+href="(?:https?:)?//', text) == []
        assert "<!-- build:" not in text
