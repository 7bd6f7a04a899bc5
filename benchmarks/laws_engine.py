"""Laws, capacity and policy learned from a real vLLM in this process, held against its own KV events.

The learner sees prompts and cached tokens alone. The events are read beside it: before every prompt they say
which of its blocks are cached, and the law must turn that into the number that the engine then reports.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from kvlab.laws.capacity import learn_capacity
from kvlab.laws.events import EventReader, Witness
from kvlab.laws.law import CacheLaw
from kvlab.laws.learn import learn_law
from kvlab.laws.probe import Answer, PromptSpec, token_ids


@dataclass
class EngineProbe:
    """Asks vLLM's offline engine, and its events before each prompt."""

    llm: Any
    reader: EventReader
    law: CacheLaw
    witness: Witness = field(default_factory=Witness)
    agreed: int = 0
    asked: int = 0
    disagreed: list[tuple[int, int, int]] = field(default_factory=list)

    def __call__(self, spec: PromptSpec) -> Answer:
        """Send one prompt of one generated token."""
        from vllm import SamplingParams

        self.witness.read(self.reader.messages(0.02), from_start=True)
        tokens = token_ids(spec)
        held = self.witness.hit(tokens)
        sampling = SamplingParams(temperature=0.0, max_tokens=1)
        (output,) = self.llm.generate([{"prompt_token_ids": tokens}], sampling, use_tqdm=False)
        cached = int(output.num_cached_tokens)
        self.asked += 1
        expected = self.law.predict(len(tokens), held)
        self.agreed += expected == cached
        if expected != cached:
            self.disagreed.append((len(tokens), held, cached))
        return Answer(len(tokens), cached)


def run(block_size: int, blocks: int) -> dict[str, Any]:
    """Learn from an engine with so many blocks, one of which is vLLM's null block."""
    from kvlab import paths
    from kvlab.serving.in_process import ENVIRONMENT
    from kvlab.serving.model import resolve_model

    os.environ.update(ENVIRONMENT)
    # On a busy machine, threads that spin at barriers slow each other down many times over.
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "passive"}
    from vllm import LLM

    model = resolve_model(None, cache_dir=paths.cache_dir(), say=print)
    with EventReader() as reader:
        llm: Any = LLM(
            model.source,
            enforce_eager=True,
            enable_prefix_caching=True,
            block_size=block_size,
            num_gpu_blocks_override=blocks,
            max_model_len=(blocks - 1) * block_size // 2,
            gpu_memory_utilization=0.3,
            kv_events_config=reader.config(),
            disable_log_stats=True,
            seed=0,
        )
        try:
            return _learn(EngineProbe(llm, reader, CacheLaw.whole_blocks(block_size)), block_size, blocks)
        finally:
            llm.llm_engine.engine_core.shutdown()


def _learn(probe: EngineProbe, block_size: int, blocks: int) -> dict[str, Any]:
    longest = (blocks - 1) * block_size // 2 - 1
    law = learn_law(
        probe,
        max_prompt_tokens=min(longest, 16 * block_size),
        verify_to_tokens=longest,
        shared_start_tokens=0,
    )
    row = {
        "block_size": block_size,
        "blocks": blocks,
        "law": None if law.law is None else law.law.formula,
        "law_reason": law.reason,
        "law_right": law.law == CacheLaw.whole_blocks(block_size),
        "law_held_out": f"{law.predicted} of {law.held_out}",
        "law_requests": law.requests,
        "law_tokens": law.prompt_tokens,
    }
    room = learn_capacity(
        probe,
        CacheLaw.whole_blocks(block_size),
        prompt_units=max(3, blocks // 20),
        max_tokens=60 * blocks * block_size,
        first_text=100,
    )
    return row | {
        "policy": room.policy,
        "possible": room.possible_policies,
        "capacity_blocks": (
            room.tokens_low // block_size,
            room.tokens_high and room.tokens_high // block_size,
        ),
        "capacity_reason": room.reason,
        "capacity_held_out": f"{room.predicted} of {room.held_out}",
        "capacity_requests": room.requests,
        "capacity_tokens": room.prompt_tokens,
        "events_agree": f"{probe.agreed} of {probe.asked}",
        "events_disagree": probe.disagreed[:10],
        "events_gaps": len(probe.witness.gaps),
        "events_complete": probe.witness.complete,
        "events_most_blocks": probe.witness.most_blocks,
        "stored": probe.witness.stored,
        "removed": probe.witness.removed,
    }


#: Block size in tokens, and blocks.
ENGINES = ((32, 40), (128, 40), (32, 120), (32, 200))


def part(quick: bool = False) -> list[dict[str, Any]]:
    """Learn from engines of several sizes, each in a process of its own, and print what was found."""
    rows = []
    for size, blocks in ENGINES[:1] if quick else ENGINES:
        command = [sys.executable, "-m", "benchmarks.laws_engine", str(size), str(blocks)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-500:]}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        shown = (
            "law_right",
            "law_held_out",
            "policy",
            "capacity_blocks",
            "capacity_held_out",
            "events_agree",
        )
        print(
            f"blocks of {size}, {blocks} of them: { ({name: rows[-1][name] for name in shown}) }", flush=True
        )
    return rows


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]), int(sys.argv[2]))), flush=True)
