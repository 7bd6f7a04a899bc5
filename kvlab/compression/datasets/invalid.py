"""From pydantic's account of what is wrong to one line."""

from pydantic import ValidationError

from kvlab.errors import InputError


def as_input_error(error: ValidationError, where: str) -> InputError:
    """Return an error that names the first wrong field, its value, and where it stands."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    value = first["input"] if field and first["type"] != "missing" else None
    return InputError(field or where, value, f"{message[0].lower()}{message[1:]} ({where})")
