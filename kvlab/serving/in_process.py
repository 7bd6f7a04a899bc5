"""vLLM in this very process: no server, no child, so that nothing is left when the process is killed.

It is loaded with the flags of the embedded server (`kvlab.serving.launch`), turned into arguments.
What vLLM says while it loads goes into a temporary file: a notebook's output is for results.
"""

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

from kvlab.errors import ServerError
from kvlab.serving import threads
from kvlab.serving.launch import ServerSpec

# Flags of the HTTP server alone; the offline engine reports cached tokens without being asked.
SERVER_ONLY = frozenset({"--enable-prompt-tokens-details"})
# In one process; without telemetry; and silent, since a handler of ours takes its log.
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CONFIGURE_LOGGING": "0",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def engine_arguments(flags: Sequence[str]) -> dict[str, Any]:
    """Return vLLM's command-line flags as arguments of its ``LLM``.

    >>> engine_arguments(["--enforce-eager", "--block-size", "32", "--gpu-memory-utilization", "0.5"])
    {'enforce_eager': True, 'block_size': 32, 'gpu_memory_utilization': 0.5}
    >>> engine_arguments(["--enable-prefix-caching", "--no-enable-prefix-caching"])
    {'enable_prefix_caching': False}
    """
    found: dict[str, Any] = {}
    for position, flag in enumerate(flags):
        if not flag.startswith("--") or flag in SERVER_ONLY:
            continue
        name, equals, value = flag[2:].partition("=")
        after = flags[position + 1] if position + 1 < len(flags) else "--"
        text = value if equals else None if after.startswith("--") else after
        if text is None and name.startswith("no-"):
            found[name.removeprefix("no-").replace("-", "_")] = False
        else:
            found[name.replace("-", "_")] = True if text is None else _number(text)
    return found


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


class InProcess:
    """A loaded engine.

    Attributes:
        llm: vLLM's ``LLM``.
        block_size: Tokens per block of its prefix cache, as it has it.
        max_model_len: Its longest context in tokens.
    """

    def __init__(self, spec: ServerSpec) -> None:
        """Load the model.

        Raises:
            ServerError: vLLM could not.
        """
        os.environ.update(ENVIRONMENT)
        threads.bound(os.environ)  # before torch is imported
        if spec.model.is_local:
            os.environ["HF_HUB_OFFLINE"] = "1"
        # Open for as long as the engine is: its loggers write into it.
        self._log: TextIO = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        _log_to(self._log)
        try:
            with quiet(self._log):
                from vllm import LLM  # ten seconds

                self.llm: Any = LLM(
                    spec.model.source,
                    **engine_arguments([*spec.flags, *spec.sizing]),
                    distributed_executor_backend="uni",
                    use_tqdm_on_load=False,
                    disable_log_stats=False,
                    seed=0,
                )
        except Exception as error:
            message = " ".join(str(error).split())[:300] or "no reason given"
            raise ServerError(
                f"vLLM could not load {spec.model.served_name}: {type(error).__name__}: {message}"
            ) from None
        config = self.llm.llm_engine.vllm_config
        self.block_size = int(config.cache_config.block_size)
        self.max_model_len = int(config.model_config.max_model_len)

    def job(self, prompt: Mapping[str, Any], decoding: Mapping[str, Any]) -> Callable[[], Any]:
        """Return a generation that only has to be called, and then gives vLLM's ``RequestOutput``."""
        from vllm import SamplingParams

        sampling = SamplingParams(**decoding)
        return lambda: self.llm.generate([prompt], sampling, use_tqdm=False)[0]

    def close(self) -> None:
        """Give the memory back."""
        if self.llm is None:
            return
        with quiet(self._log):
            from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            cleanup_dist_env_and_memory()


def _log_to(file: TextIO) -> None:
    """Make vLLM's own loggers write into ``file``, and nowhere else."""
    logger = logging.getLogger("vllm")
    logger.handlers = [logging.StreamHandler(file)]
    logger.propagate = False
    logger.setLevel(logging.WARNING)


@contextlib.contextmanager
def quiet(file: TextIO) -> Iterator[None]:
    """Send everything that is printed meanwhile into ``file``, by Python or by C++ below it."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [(number, os.dup(number)) for number in (1, 2)]
    try:
        for number, _ in saved:
            os.dup2(file.fileno(), number)
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield
    finally:
        file.flush()
        for number, copy in saved:
            os.dup2(copy, number)
            os.close(copy)
