"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from kvlab.command import complete

Profile = Annotated[
    str,
    typer.Option(help="A file of params/<experiment>/, without .yaml.", autocompletion=complete.profiles),
]

ParamsFile = Annotated[Path | None, typer.Option(help="A YAML file of your own, in place of a profile.")]

Set = Annotated[list[str] | None, typer.Option("--set", help="key=value, in YAML; may be repeated.")]

Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Send to another machine as much as the plan says, unasked.")
]
