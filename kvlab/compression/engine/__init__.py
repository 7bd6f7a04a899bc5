"""transformers in this process, with KV-cache budgets that are really applied.

The physics: prefill is bound by computing and costs the same at every budget; a decoding step is
bound by reading the weights and costs little more for eight rows than for one. So a prompt is
prefilled and scored once, each budget gathers its entries from that one cache, and all budgets
decode together. That gives tokens, not times: `KvEngine.timed` measures one budget alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kvlab.compression.engine.engine import KvEngine
from kvlab.compression.engine.example import Prefilled
from kvlab.compression.engine.generation import Generation
from kvlab.compression.engine.load import Options, find, identity, load, longest
from kvlab.settings import Settings

__all__ = ["Generation", "KvEngine", "Options", "Prefilled", "find", "hold", "open_engine"]


def open_engine(
    settings: Settings,
    check: Callable[[int | None], None],
    options: Options | None = None,
    *,
    cache_bytes: int | None = None,
) -> KvEngine:
    """Load the model into this process.

    Args:
        settings: ``KVLAB_MODEL`` chooses the model: a folder, a name on the hub, or the packaged one.
        check: Told the longest context in tokens; raises for what does not fit.
        options: dtype, device and attention kernel.
        cache_bytes: How much prefilled state is kept for another round (`KvEngine`).

    Raises:
        InputError: The model is not there or not of a known architecture, an option is wrong, or
            something does not fit the context.
    """
    options = options or Options()
    model = find(settings)
    options.check()
    check(model.max_model_len)
    print(f"loading {model.served_name} into transformers in this process", flush=True)
    loaded, tokenizer = load(model, options)
    limit = longest(loaded.config)
    check(limit)
    return KvEngine(loaded, tokenizer, identity(model, options, limit), cache_bytes=cache_bytes)


@contextmanager
def keep_running(settings: Settings, check: Callable[[int | None], None]) -> Iterator[None]:
    """Refuse what cannot work before a notebook's process loads the engine. Starts nothing."""
    check(find(settings).max_model_len)
    yield
