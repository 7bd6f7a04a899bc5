"""The load generator: thousands of measured requests per second, none of them in the notebook's process.

    notebook ── job ──▶ recorder ── job ──▶ generator ══ requests ══▶ server
             ◀ progress          ◀ stamped bytes

The *generator* (`kvlab.load.generator`) only sends, reads and stamps. The *recorder*
(`kvlab.load.recorder`) parses what came and commits it to the run's database, at a lower priority, and
reports what is committed. The notebook (`kvlab.load.control`) starts them, shows progress, and stops
them; when it dies, they do. Whatever dies, what was reported is in the database, and a resume
sends exactly the items that have no final row there.
"""

import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from kvlab.loaded import LoadedRun


class _Room(types.ModuleType):
    """This package has the name of a function of the front door, `kvlab.api.load`.

    Importing anything of it binds it in that function's place; whoever calls it means the function.
    """

    def __call__(self, folder: "str | Path") -> "LoadedRun":
        from kvlab.api import load

        return load(folder)


sys.modules[__name__].__class__ = _Room
