"""``kvlab serve``: the embedded server, kept up by hand."""

import signal
import time
from collections.abc import Callable

from kvlab import paths
from kvlab.errors import InputError, ServerError
from kvlab.serving import embedded
from kvlab.settings import load_settings


def serve(say: Callable[[str], None]) -> None:
    """Hold a lease on the embedded server until Ctrl-C or SIGTERM.

    Raises:
        InputError: An endpoint is configured, so nothing would use the server.
        ServerError: It does not start, or dies.
    """
    settings = load_settings()
    if settings.openai_base_url is not None:
        fix = "is set, so runs would not use the embedded server; unset it"
        raise InputError("OPENAI_BASE_URL", settings.openai_base_url, fix)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with embedded.acquire(settings.kvlab_model, cache_dir=paths.cache_dir(), say=say) as lease:
        say(f"{lease.base_url} serves {lease.model.served_name}; log: {lease.log_path}; Ctrl-C stops it")
        say(f"other clients than kvlab need its key: `api_key` in {lease.key_path}")
        try:
            while lease.alive():
                time.sleep(1)
        except KeyboardInterrupt:
            say("stopping")
            return
    raise ServerError(f"the server died; its log: {lease.log_path}")
