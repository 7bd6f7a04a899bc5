"""Run inside the kvpress environment: what kvpress keeps and answers, as JSON.

``python -m benchmarks.kvpress.reference OUTPUT``
"""

import json
import sys
from pathlib import Path
from typing import Any

import kvpress
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import DynamicCache, PreTrainedTokenizerFast

from benchmarks.kvpress import tiny
from benchmarks.kvpress.cases import CASES, N_CONTEXT, N_TAIL, NEW_TOKENS, PAIRS, Case


def tokenizer() -> PreTrainedTokenizerFast:
    """One whose texts are the token ids themselves: kvpress' pipeline answers in text."""
    words = WordLevel({str(i): i for i in range(tiny.VOCABULARY)}, unk_token="0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words))


def run(case: Case, model: Any) -> dict[str, Any]:
    """Return the kept positions of each layer and KV head, and in ``agnostic`` the greedy tokens."""
    name, values = PAIRS[case.policy_id]
    press = getattr(kvpress, name)(compression_ratio=case.ratio, **values)
    context, tail = tiny.prompt(N_CONTEXT, N_TAIL)
    ids = torch.tensor([context + tail if case.query_mode == "aware" else context])
    whole, pruned = DynamicCache(), DynamicCache()
    with torch.inference_mode():
        model.model(input_ids=ids, past_key_values=whole)
        with press(model):
            model.model(input_ids=ids, past_key_values=pruned)
    kept = [_positions(*pair) for pair in zip(whole.layers, pruned.layers, strict=True)]
    if case.query_mode == "aware":
        return {"kept": kept, "tokens": None}
    pipeline = kvpress.KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer(), device="cpu")
    given = {"context_ids": ids, "questions_ids": [torch.tensor([tail])]}
    with torch.inference_mode():
        (answer,) = pipeline._forward(given, max_new_tokens=NEW_TOKENS, press=press)
    return {"kept": kept, "tokens": [int(word) for word in answer.split()]}


def _positions(whole: Any, pruned: Any) -> list[list[int]]:
    """Find each kept key among all keys: they are copies, so they are equal to the last bit."""
    same = (pruned.keys[0].unsqueeze(2) == whole.keys[0].unsqueeze(1)).all(dim=-1)
    if not bool((same.sum(dim=-1) == 1).all()):
        raise SystemExit("two positions have the same key: the kept ones cannot be told")
    return same.int().argmax(dim=-1).sort(dim=-1).values.tolist()


def main() -> None:
    torch.set_num_threads(1)
    models = {kind: tiny.model(kind) for kind in {case.kind for case in CASES}}
    from importlib.metadata import version

    found = {
        "kvpress": version("kvpress"),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "cases": {case.key: run(case, models[case.kind]) for case in CASES},
    }
    Path(sys.argv[1]).write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
