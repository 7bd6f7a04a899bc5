"""A real byte-level BPE tokenizer, trained here on the haystack: small, quick, and on every machine."""

import pytest

from kvlab import paths
from kvlab.compression.datasets import prose, tokenizer
from kvlab.serving.model import model_is_prepared

CHAT = (
    "{{ '<s>' }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def train(folder, *, chat):
    from tokenizers import ByteLevelBPETokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([prose.prose(3, 20_000)], vocab_size=600, special_tokens=["<s>", "<|end|>"])
    # Like Llama's: the tokenizer puts BOS before every text, and the chat template has one of its own.
    bpe._tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    hf = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, bos_token="<s>", eos_token="<|end|>")
    if chat:
        hf.chat_template = CHAT
    hf.save_pretrained(folder)
    return tokenizer.load(str(folder))


@pytest.fixture(scope="session")
def tk(tmp_path_factory):
    return train(tmp_path_factory.mktemp("tokenizers") / "chatty", chat=True)


@pytest.fixture(scope="session")
def plain_tk(tmp_path_factory):
    return train(tmp_path_factory.mktemp("tokenizers") / "plain", chat=False)


@pytest.fixture(scope="session")
def packaged():
    if not model_is_prepared(paths.cache_dir()):
        pytest.skip("the packaged model is not installed, or not prepared yet")
    return tokenizer.load(None)
