"""Write ``expected/`` anew: ``python -m tests.golden.update [experiment ...]``. When to: see the README."""

import sys
import tempfile
from pathlib import Path

from tests.golden import stored


def update(name: str) -> list[str]:
    """Write the results of one stored run anew; return the files that changed."""
    with tempfile.TemporaryDirectory() as folder:
        found = stored.rebuilt(name, stored.copy(name, Path(folder) / name))
    target = stored.HERE / name / "expected"
    target.mkdir(exist_ok=True)
    before = stored.expected(name)
    for gone in before.keys() - found.keys():
        (target / gone).unlink()
    for file, content in found.items():
        (target / file).write_bytes(content)
    return sorted(file for file in before.keys() | found.keys() if before.get(file) != found.get(file))


if __name__ == "__main__":
    for chosen in sys.argv[1:] or stored.names():
        print(f"{chosen}: {', '.join(update(chosen)) or 'nothing changed'}")
