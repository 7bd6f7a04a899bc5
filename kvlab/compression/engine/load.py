"""Loading a model for this engine, after refusing what it cannot do right."""

import importlib.util
import os
from dataclasses import dataclass
from typing import Any, Literal

from kvlab import paths
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.facts import Fact
from kvlab.errors import InputError
from kvlab.serving import threads
from kvlab.serving.model import Model, resolve_model
from kvlab.settings import Settings

DType = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
Attention = Literal["sdpa", "eager"]

#: Architectures whose attention the policies read as it is: rotary positions, ``q_proj`` apart.
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Options:
    """How a model is loaded.

    Attributes:
        dtype: Of weights and cache.
        device: ``auto``: the GPU where there is one.
        attention: The attention kernel.
    """

    dtype: DType = "float32"
    device: Device = "auto"
    attention: Attention = "sdpa"

    def check(self) -> None:
        """Refuse unknown values.

        Raises:
            InputError: One is unknown, or there is no GPU.
        """
        for name, known in (
            ("dtype", ("float32", "bfloat16")),
            ("device", ("auto", "cpu", "cuda")),
            ("attention", ("sdpa", "eager")),
        ):
            if getattr(self, name) not in known:
                raise InputError(name, getattr(self, name), f"is unknown; choose {' or '.join(known)}")
        if self.device == "cuda" and self.place() != "cuda":
            raise InputError("device", "cuda", "is not here: torch sees no GPU; choose auto or cpu")

    def place(self) -> str:
        """Return the device that is meant: ``cuda`` or ``cpu``."""
        import torch

        return "cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu"


def find(settings: Settings) -> Model:
    """Return the model that the settings name; nothing is loaded.

    Raises:
        InputError: torch is not installed, or ``KVLAB_MODEL`` names no model.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            "torch",
            None,
            "is not installed, and this engine runs on it; run `make setup EXTRA=kv` (no vLLM), or cpu, or gpu",
        )
    threads.bound(os.environ, steady=True)  # before torch is imported
    return resolve_model(settings.kvlab_model, cache_dir=paths.cache_dir(), say=print)


def load(model: Model, options: Options) -> tuple[Any, Any]:
    """Return the transformers model, in evaluation mode on its device, and its tokenizer.

    Raises:
        InputError: It cannot be loaded, or is of an architecture that the policies do not know.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    here = {"local_files_only": True} if model.is_local else {}
    shown = model.served_name if model.packaged else model.source
    try:
        config = AutoConfig.from_pretrained(model.source, **here)
        _check_architecture(config, shown)
        _check_rope(config, shown)
        loaded = AutoModelForCausalLM.from_pretrained(
            model.source,
            dtype=getattr(torch, options.dtype),
            attn_implementation=options.attention,
            **here,
        )
        tokenizer = AutoTokenizer.from_pretrained(model.source, **here)
    except InputError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError("KVLAB_MODEL", shown, f"cannot be loaded by transformers: {message}") from None
    return loaded.to(options.place()).eval(), tokenizer


def _check_architecture(config: Any, shown: str) -> None:  # noqa: ANN401 - a transformers config
    if config.model_type not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        fix = f"is of type {config.model_type}, whose cache the policies do not know; choose one of {known}"
        raise InputError("KVLAB_MODEL", shown, fix)


#: Rotations that change with the longest prompt seen so far: an answer would depend on what was asked before.
_CHANGING_ROPE = ("dynamic", "longrope")


def _check_rope(config: Any, shown: str) -> None:  # noqa: ANN401 - a transformers config
    told = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    kinds = [part for part in (told, *told.values()) if isinstance(part, dict)]  # one for each kind of layer
    for kind in (str(part.get("rope_type", part.get("type"))) for part in kinds):
        if kind in _CHANGING_ROPE:
            fix = (
                f"has rotary positions of type {kind}, which depend on what was asked before; choose a model with "
                "default, linear, yarn or llama3 ones"
            )
            raise InputError("KVLAB_MODEL", shown, fix)


def longest(config: Any) -> int:  # noqa: ANN401 - a transformers config
    """Return how many tokens fit: the positions, or a sliding window, beyond which entries are unseen."""
    window = getattr(config, "sliding_window", None)
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    limits = [int(config.max_position_embeddings)] + ([int(window)] if window and sliding else [])
    return min(limits)


def identity(model: Model, options: Options, max_model_len: int) -> Identity:
    """Return what the engine is, for the manifest."""
    import torch
    import transformers

    kept = "n_kept and bytes are read from the cache tensors after pruning"
    return Identity(
        kind="transformers KV",
        version=f"transformers {transformers.__version__}, torch {torch.__version__}",
        url="in-process",
        model=model.served_name,
        revision=model.revision,
        max_model_len=max_model_len,
        flags=[
            f"dtype={options.dtype}",
            f"device={options.place()}",
            f"attention={options.attention}",
        ],
        facts={"kv_budget": Fact(holds=True, why=kept)},
    )
