"""A yes before much is sent or anything is deleted: asked for in a terminal, and never taken for granted."""

import sys

import typer

from kvlab.command.show import shown
from kvlab.errors import InputError


def require(objection: str | None, *, yes: bool, otherwise: str = "nothing was sent") -> None:
    """Go on if there is no objection, or somebody says yes to it.

    Args:
        objection: What needs a yes; ``None``: nothing does.
        yes: Whether ``--yes`` was given.
        otherwise: What is true without it.

    Raises:
        InputError: Nobody can be asked, or the answer is no.
    """
    if objection is None or yes:
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InputError("--yes", None, f"is missing: {objection}; add --yes ({otherwise})")
    if not typer.confirm(shown(f"{objection}. Go on?"), default=False):
        raise InputError("--yes", None, f"was not given; {otherwise}")
