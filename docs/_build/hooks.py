"""What the site takes from the repository when it is built, so that no page repeats it by hand.

A page says ``<!-- build: WHAT ARGUMENTS -->`` on a line of its own:

    result NOTEBOOK            the sentence that the committed notebook ended with
    params CLASS [EXPERIMENT]  the fields of a parameters class, with the default and the smoke profile's value
    cli                        the help of every command
    env                        .env.example
    bench NAME                 a table of benchmarks/results.json, benchmarks/peers.json or benchmarks/engines/results.json

Notebook pictures, CONTRIBUTING.md and CHANGELOG.md become files of the site; other links that leave
``docs/`` lose their target and keep their text.
"""

import re
import sys
from pathlib import Path
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_build")]

import tables  # noqa: E402 - found by the line above

#: File of the repository → file of the site.
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
IMAGES = "notebooks/images"
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_BUILD = re.compile(r"^<!-- build: (\w+)(.*?) -->$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:  # noqa: ANN401 - MkDocsConfig
    """Add what lies outside ``docs/``."""
    for picture in sorted((ROOT / IMAGES).glob("*.png")):
        files.append(File.generated(config, f"images/{picture.name}", abs_src_path=str(picture)))
    for source, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:  # noqa: ANN401 - a Page
    """Fill in what the build makes, and turn links of the repository into links of the site."""
    place = page.file.src_uri
    source = {name: source for source, name in PAGES.items()}.get(place, f"docs/{place}")
    filled = _BUILD.sub(lambda found: tables.make(found[1], found[2].split()), markdown)
    return _LINK.sub(lambda found: _linked(found, source, place), filled)


def _linked(found: re.Match[str], source: str, place: str) -> str:
    image, text, target = found.groups()
    path, mark, anchor = target.partition("#")
    if not path or ":" in path:
        return found[0]
    here, inside = normpath(f"{Path(source).parent.as_posix()}/{path}"), None
    if here == "docs" or here.startswith("docs/"):
        inside = here.removeprefix("docs").lstrip("/")
        if (ROOT / here).is_dir():
            inside = f"{inside}/README.md" if (ROOT / here / "README.md").exists() else f"{inside}/index.md"
    elif here in PAGES:
        inside = PAGES[here]
    elif here.startswith(IMAGES):
        inside = f"images/{Path(here).name}"
    if inside is None:
        return f"`{here}`" if text.strip("`") == here else f"{text} (`{here}`)"
    return f"{image}[{text}]({relpath(inside.lstrip('/'), Path(place).parent.as_posix())}{mark}{anchor})"
