"""A fact about a server, with the observation behind it."""

from pydantic import BaseModel


class Fact(BaseModel):
    """Something a server can or cannot do; ``None``: not found out. ``why`` says how we know."""

    holds: bool | None = None
    why: str = "not asked"
