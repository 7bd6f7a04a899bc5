"""Run a notebook under papermill, as the child of `kvlab.command.runner`: ``python -m kvlab.command.headless``.

Reads one JSON object from standard input: notebook, output, parameters, folder. Standard input then
stays open as a lifeline: when it ends, the runner is gone, whatever way it went, and so must be the
kernel and this process.
"""

import json
import os
import sys
import threading
from pathlib import Path

import psutil

from kvlab.command import show
from kvlab.errors import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK
from kvlab.runs import status
from kvlab.runs.files import is_no_space, read_json, write_json

ERROR = ".error.json"
#: The runner's word for it, where not even the error could be written down.
EXIT_NO_SPACE = 28


def main() -> int:
    """Execute the notebook. Returns the exit code; a failure is explained in ``.error.json``."""
    show.prepare()
    job = json.loads(sys.stdin.readline())
    folder = Path(job["folder"])
    threading.Thread(target=_watch, args=(folder,), daemon=True).start()
    import papermill  # after the watch is on: it takes a second
    from papermill.exceptions import PapermillExecutionError

    try:
        papermill.execute_notebook(
            job["notebook"],
            job["output"],
            parameters=job["parameters"],
            kernel_name="python3",
            language="python",  # both said here: a notebook may have been stripped of its metadata
            cwd=folder,
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
            autosave_cell_every=5,
        )
    except PapermillExecutionError as error:
        return _failed(folder, error.ename, str(error.evalue))
    except Exception as error:
        return _failed(folder, type(error).__name__, str(error) or "the notebook's kernel died")
    return EXIT_OK


def _failed(folder: Path, name: str, message: str) -> int:
    message = show.without_secrets(message)
    try:
        write_json(folder / ERROR, {"type": name, "message": message})
    except OSError as error:  # a full disk, which is then most often why
        print(f"{name}: {message} ({error.strerror})", flush=True)
        return EXIT_NO_SPACE if is_no_space(error) else EXIT_FAILED
    return EXIT_BAD_INPUT if name == "InputError" else EXIT_FAILED


def _watch(folder: Path) -> None:
    """Wait for the end of the lifeline; then end everything, and say so if the runner has not."""
    while os.read(sys.stdin.fileno(), 1024):
        continue
    content = read_json(folder / status.FILE_NAME)
    for process in psutil.Process().children(recursive=True):
        process.kill()
    if content.get("status") == status.Status.RUNNING:
        reason = "the command was killed; the trials that it printed are in the database"
        status.end(folder, status.Status.INTERRUPTED, reason=reason)
    os._exit(EXIT_FAILED)


if __name__ == "__main__":
    sys.exit(main())
