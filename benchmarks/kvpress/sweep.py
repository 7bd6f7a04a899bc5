"""Run inside the kvpress environment: its pipeline, looped over ratios, one loop at each word.

``python -m benchmarks.kvpress.sweep PLAN``: PLAN is a JSON file (`benchmarks.kv_sweep` writes it). A
line on stdin starts a loop; a JSON line on stdout says how long it took and which tokens came out.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import kvpress
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging


class Sweep:
    """The model, loaded once, and its pipeline."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self.plan = plan
        logging.disable_progress_bar()
        model = AutoModelForCausalLM.from_pretrained(
            plan["model"], dtype=torch.float32, attn_implementation="sdpa"
        )
        tokenizer = AutoTokenizer.from_pretrained(plan["model"])
        self.tokens: list[list[int]] = []
        # The pipeline answers in text; the tokens are seen on their way into it.
        tokenizer.decode = lambda ids, **_: self.tokens.append(ids.tolist()) or ""
        self.pipeline = kvpress.KVPressTextGenerationPipeline(
            model=model.eval(), tokenizer=tokenizer, device="cpu"
        )

    def answer(self, example: dict[str, list[int]], ratio: float) -> None:
        press = kvpress.SnapKVPress(
            compression_ratio=ratio,
            window_size=self.plan["window"],
            kernel_size=self.plan["kernel"],
        )
        given = {
            "context_ids": torch.tensor([example["context"]]),
            "questions_ids": [torch.tensor([example["tail"]])],
        }
        with torch.inference_mode():
            self.pipeline._forward(given, max_new_tokens=self.plan["new_tokens"], press=press)

    def loop(self) -> dict[str, Any]:
        """Answer every example at every ratio."""
        self.tokens.clear()
        start, start_cpu = time.perf_counter(), time.process_time()
        for example in self.plan["examples"]:
            for ratio in self.plan["ratios"]:
                self.answer(example, ratio)
        took = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - start_cpu}
        return {**took, "tokens": list(self.tokens)}


def main() -> None:
    sweep = Sweep(json.loads(Path(sys.argv[1]).read_text()))
    sweep.answer(sweep.plan["examples"][0], 0.5)  # warm
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(sweep.loop()), flush=True)


if __name__ == "__main__":
    main()
