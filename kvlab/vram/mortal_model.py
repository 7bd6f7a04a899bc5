"""A transformers engine that may die: ``python -m kvlab.vram.mortal_model``.

It loads a model, puts a cap on its own memory, and then lengthens one context on request, a chunk at
a time, telling what it holds after each. JSON lines: a job on stdin and then one command a line;
events on stdout. Its parent wrote each size into the database before it sent it.

What is told is memory that was really taken: resident pages after the chunk's activations are freed
and the allocator has given its free pages back. `MALLOC_ENVIRONMENT` makes glibc put each tensor of
64 KiB and more on pages of its own, so that what a freed tensor leaves behind is nothing. On a card it is
what torch's allocator has given to tensors, under a cap of that allocator.
"""

import contextlib
import json
import os
import sys
import time
from typing import Any

try:
    import resource
except ImportError:  # Windows, where no child is started: the parameters are refused
    resource = None  # type: ignore[assignment]

#: Set by the parent before Python starts; glibc reads it once.
MALLOC_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "MALLOC_ARENA_MAX": "1",
}
#: What an allocation that is refused says, in lower case, whoever refused it.
OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "cannot allocate memory",
    "bad_alloc",
    "memoryerror",
)


def status_bytes() -> dict[str, int]:
    """Return ``VmRSS``, ``RssAnon`` and ``VmData`` of this process in bytes (``/proc/self/status``)."""
    found = {}
    with open("/proc/self/status", encoding="ascii") as lines:  # noqa: PTH123 - a path of the kernel's
        for line in lines:
            name, _, text = line.partition(":")
            if name in ("VmRSS", "RssAnon", "VmData"):
                found[name] = int(text.split()[0]) * 1024
    return found


class Model:
    """A loaded model with one growing context.

    Attributes:
        tokens: How many the context holds.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        torch.set_grad_enabled(False)
        self.dtype, self.chunk, self.tokens = str(job["dtype"]), int(job["chunk_tokens"]), 0
        self.random = torch.Generator().manual_seed(int(job["seed"]))
        self.device = "cuda" if torch.cuda.is_available() else "cpu"

        def load() -> None:
            model = AutoModelForCausalLM.from_pretrained(job["source"], dtype=getattr(torch, self.dtype))
            self.model = model.to(self.device).eval()
            self.cache = self._new_cache()
            self.forward(self.chunk)
            self.forward(self.chunk)  # libraries make their workspaces on first use: no part of a token

        try:
            load()
        except torch.OutOfMemoryError:  # the card is full of the server that is probed
            if self.device == "cpu":
                raise
            self.device = "cpu"
            load()
        self.cache, self.tokens = self._new_cache(), 0

    def _new_cache(self) -> Any:  # noqa: ANN401 - transformers' own
        from transformers.cache_utils import DynamicCache

        return DynamicCache(config=self.model.config)

    def forward(self, count: int) -> None:
        """Compute ``count`` more tokens and keep their keys and values, not their logits."""
        high = int(self.model.config.get_text_config().vocab_size)
        ids = self.torch.randint(0, high, (1, count), generator=self.random).to(self.device)
        self.model(input_ids=ids, past_key_values=self.cache, use_cache=True, logits_to_keep=1)
        self.tokens += count

    def cache_bytes(self) -> int:
        """Return the size of the cache's tensors, by their own account: keys, values, or whatever a layer keeps."""
        kept = [value for layer in getattr(self.cache, "layers", ()) for value in vars(layer).values()]
        return sum(int(each.nbytes) for each in kept if isinstance(each, self.torch.Tensor))

    def config(self) -> dict[str, Any]:
        """Return the model's configuration, with what its file leaves to its class."""
        found: dict[str, Any] = json.loads(self.model.config.to_json_string(use_diff=False))
        return found

    def memory(self) -> dict[str, int]:
        """Return what is held once everything that is free was given back."""
        import ctypes

        if self.device == "cuda":
            cuda = self.torch.cuda
            cuda.synchronize()
            cuda.empty_cache()
            held = {"held_bytes": int(cuda.memory_allocated()), "reserved_bytes": int(cuda.memory_reserved())}
            return {**held, "rss_bytes": status_bytes()["VmRSS"]}

        with contextlib.suppress(OSError, AttributeError):  # no glibc
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        found = status_bytes()
        return {"rss_bytes": found["VmRSS"], "anonymous_bytes": found["RssAnon"]}

    def cap(self, headroom_bytes: int) -> None:
        """Let this process have ``headroom_bytes`` more than it has now.

        RLIMIT_DATA counts private writable memory (Linux 4.7), which is where tensors go; RLIMIT_AS would
        also count libraries and reserved address space, of which torch has gigabytes. On a card it is a
        share of the card that torch's allocator may reserve.
        """
        if self.device == "cuda":
            cuda = self.torch.cuda
            most = cuda.memory_reserved() + headroom_bytes
            cuda.set_per_process_memory_fraction(min(1.0, most / cuda.mem_get_info()[1]))
            return
        limit = status_bytes()["VmData"] + headroom_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def say(**event: Any) -> None:  # noqa: ANN401 - JSON
    """Send one event."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory was refused."""
    text = f"{type(error).__name__} {error}".lower()
    return any(words in text for words in OUT_OF_MEMORY)


def main() -> None:
    """Serve one parent until it closes stdin, or until memory ends."""
    job = json.loads(sys.stdin.readline())
    model = Model(job)
    say(event="ready", device=model.device, config=model.config(), **model.memory())
    model.cap(int(job["headroom_bytes"]))
    for line in sys.stdin:
        target = int(json.loads(line)["tokens"])
        start = time.perf_counter()
        try:
            while model.tokens < target:
                model.forward(min(model.chunk, target - model.tokens))
            held = {"cache_bytes": model.cache_bytes(), **model.memory()}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # Nothing more may be allocated now, and a process in this state is not to be trusted.
            resource.setrlimit(resource.RLIMIT_DATA, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            say(event="out_of_memory", message=" ".join(str(error).split())[:300], held_tokens=model.tokens)
            os._exit(3)
        say(event="held", tokens=model.tokens, forward_s=time.perf_counter() - start, **held)


if __name__ == "__main__":
    main()
