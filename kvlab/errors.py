"""The errors that a user sees, and the exit code each one means."""

from kvlab.escape import terminal

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
EXIT_NOT_PASSED = 3
EXIT_INTERRUPTED = 130


class KvlabError(Exception):
    """Something went wrong while working: exit code 1."""

    exit_code = EXIT_FAILED

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: in a notebook, too, a user's mistake is one line and no traceback."""
        return [f"{type(self).__name__}: {terminal(self)}"]


class InputError(KvlabError):
    """The user gave something that cannot work: exit code 2.

    Args:
        field: The name of the parameter, key, file or option that is wrong.
        value: What it was; ``None`` where the value is missing or must not be shown (a secret).
        fix: What is wrong with it and what to do about it, in a few words.
    """

    exit_code = EXIT_BAD_INPUT

    def __init__(self, field: str, value: object, fix: str) -> None:
        self.field, self.value, self.fix = field, value, fix
        shown = "" if value is None else f" {_short(value)}"
        super().__init__(" ".join(f"{field}:{shown} {fix}".split()))


class ServerError(KvlabError):
    """A server did not start, died, or did not answer."""


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
