"""GGUF in, a folder of safetensors out: run as a child process, the only place here that imports torch.

The GGUF of a small model is dequantised once, to bfloat16, so that vLLM and transformers load the
very same weights. `python -m kvlab.serving.convert GGUF FOLDER`
"""

import os
import sys
from pathlib import Path


def convert(gguf: Path, folder: Path) -> None:
    """Write `gguf` (Llama architecture) and its tokenizer as a Hugging Face model folder.

    Args:
        gguf: The file to read.
        folder: The folder to write, which must not exist; every file in it is on disk on return.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source, name = str(gguf.parent), gguf.name
    loaded = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype=torch.float32)
    # The loaded config says "quantised" and names a training run; the weights are neither any more,
    # and vLLM would look for GGUF kernels. A fresh model carries a clean config.
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        settings.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)
    for path in (*folder.iterdir(), folder):
        sync(path)


def sync(path: Path) -> None:
    """Have what was written to a file or a folder's entries reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
