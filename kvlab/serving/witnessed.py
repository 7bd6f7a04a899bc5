"""An embedded server with a small cache that tells its own truth: every block that it stores and removes.

How much a cache holds is found by filling it many times over. The embedded server's own cache holds tens of
thousands of tokens, which a CPU fills in hours; a small one is filled in minutes, and is the same cache in all
else. Its KV events (`kvlab.laws.events`) are published on a socket of the runtime folder, which this user alone
can reach.
"""

import hashlib
import importlib.util
import json
from collections.abc import Sequence

from kvlab.serving.launch import server_spec
from kvlab.serving.model import Model
from kvlab.serving.state import runtime_root

TOPIC, CONFIG = "kv", "--kv-events-config"


def flags(model: Model, blocks: int, others: Sequence[str] = ()) -> tuple[str, ...]:
    """Return vLLM's flags for a cache of so many blocks, with events where they can be read.

    One block is vLLM's own (the null block), and a prompt must fit in the others.

    Args:
        model: What is served.
        blocks: Of the cache.
        others: Flags that the server has besides.

    Raises:
        InputError: vLLM is not installed here.
    """
    spec = server_spec(model, others)
    room = (blocks - 1) * spec.block_size
    longest = room if model.max_model_len is None else min(room, model.max_model_len)
    found = ("--num-gpu-blocks-override", str(blocks), "--max-model-len", str(longest))
    if not all(importlib.util.find_spec(name) for name in ("zmq", "msgspec")):
        return found  # what carries and what decodes the events
    # The same place for whoever asks for the same server, since its flags are part of what it is.
    name = json.dumps([model.source, model.revision, *spec.flags, *found])
    path = runtime_root() / f"ev{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    config = {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": f"ipc://{path}", "topic": TOPIC}
    return (*found, CONFIG, json.dumps(config))


def endpoint(flags: Sequence[str]) -> str | None:
    """Return where a server with these flags publishes its events; ``None``: it publishes none that can be joined."""
    if CONFIG not in flags[:-1]:
        return None
    try:
        place = json.loads(flags[list(flags).index(CONFIG) + 1])["endpoint"]
    except (ValueError, KeyError, TypeError):
        return None
    return place if isinstance(place, str) and place.startswith("ipc://") else None
