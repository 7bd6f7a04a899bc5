"""What a dense sweep over KV budgets costs: one prefill for all, against one for each.

kvlab's engine and the kvpress pipeline answer the same examples (token ids), at the same budgets,
with the same model, dtype and threads, in turns, each in its own process. Loading is not timed.

``python -m benchmarks.kv_sweep`` runs it alone and prints what it found.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.conformance import PYTHON, ROOT
from kvlab.compression import policies
from kvlab.compression.engine import KvEngine, open_engine
from kvlab.compression.policies import Budget
from kvlab.settings import load_settings

BUDGETS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3, 0.1)
WINDOW, KERNEL, NEW_TOKENS, CONTEXT_TOKENS = 64, 5, 8, 950
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
WORDS = ("otter", "lantern", "meadow", "compass", "harbour", "violin", "glacier", "saffron")
SKIPPED = "skipped: there is no kvpress environment; `make conformance` builds it"


def run(examples: int = 4, repeats: int = 3, budgets: tuple[float, ...] = BUDGETS) -> dict[str, Any] | None:
    """Return both sides' wall times, their ratio, and how many answers agree; None: no kvpress here.

    Args:
        examples: Up to 8.
        repeats: How often the two take turns.
        budgets: Fractions of the context.
    """
    if not PYTHON.exists():
        return None
    engine = open_engine(load_settings(), lambda _: None)
    chosen = [Budget.of(value) for value in budgets]
    asked = [_example(engine, word, 1_000_003 * (i + 1)) for i, word in enumerate(WORDS[:examples])]
    plan = {
        "model": engine.model.config._name_or_path,
        "examples": asked,
        "ratios": [budget.ratio for budget in chosen],
        "window": WINDOW,
        "kernel": KERNEL,
        "new_tokens": NEW_TOKENS,
    }
    _ours(engine, asked[:1], chosen[:2])  # warm
    ours, theirs = [], []
    with _kvpress(plan) as child:
        for turn in range(repeats):
            ours.append(_ours(engine, asked, chosen))
            theirs.append(_theirs(child))
            equal = _equal(ours[-1], theirs[-1])
            print(
                f"  round {turn + 1}: kvlab {ours[-1]['wall_s']:.1f} s, kvpress {theirs[-1]['wall_s']:.1f} s, "
                f"{sum(equal)} of {len(equal)} answers equal",
                flush=True,
            )
    engine.close()
    return _result(ours, theirs, examples, budgets)


def _example(engine: KvEngine, word: str, number: int) -> dict[str, list[int]]:
    needle = f"One of the special magic numbers for {word} is: {number}. "
    room = CONTEXT_TOKENS - len(engine.counter.encode(f"<|im_start|>user\n{needle}"))
    half = FILLER * (room // len(engine.counter.encode(FILLER)) // 2)
    tail = (
        f"What is the special magic number for {word} mentioned in the text?<|im_end|>\n"
        f"<|im_start|>assistant\nThe special magic number for {word} mentioned in the text is"
    )
    context = engine.counter.encode(f"<|im_start|>user\n{half}{needle}{half}")
    return {"context": context, "tail": engine.counter.encode(tail)}


def _ours(engine: KvEngine, asked: list[dict[str, list[int]]], budgets: list[Budget]) -> dict[str, Any]:
    policy = policies.get(f"snapkv-w{WINDOW}-k{KERNEL}-avg")
    engine.states.clear()
    tokens = []
    start, start_cpu = time.perf_counter(), time.process_time()
    for example in asked:
        done = engine.prefill(example["context"], example["tail"], "agnostic", [policy])
        for made in engine.generate(done, policy, budgets, NEW_TOKENS):
            if made.error is not None:
                raise SystemExit(f"kvlab failed: {made.error}")
            tokens.append(list(made.token_ids))
    took = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - start_cpu}
    return {**took, "tokens": tokens}


@contextmanager
def _kvpress(plan: dict[str, Any]) -> Iterator["subprocess.Popen[str]"]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.json"
        path.write_text(json.dumps(plan))
        child = subprocess.Popen(
            [str(PYTHON), "-m", "benchmarks.kvpress.sweep", str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        with child:
            assert child.stdin is not None
            assert child.stdout is not None
            if child.stdout.readline() != "ready\n":
                raise SystemExit("the kvpress environment did not start; what it said is above")
            yield child
            child.stdin.close()


def _theirs(child: "subprocess.Popen[str]") -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("go\n")
    child.stdin.flush()
    found: dict[str, Any] = json.loads(child.stdout.readline())
    return found


def _result(
    ours: list[dict[str, Any]], theirs: list[dict[str, Any]], examples: int, budgets: tuple[float, ...]
) -> dict[str, Any]:
    pairs = list(zip(ours, theirs, strict=True))
    answers = [same for own, other in pairs for same in _equal(own, other)]
    return {
        "examples": examples,
        "budgets": list(budgets),
        "context_tokens": CONTEXT_TOKENS,
        "new_tokens": NEW_TOKENS,
        "kvlab_wall_s": [round(own["wall_s"], 2) for own in ours],
        "kvpress_wall_s": [round(other["wall_s"], 2) for other in theirs],
        "ratio": _spread([own["wall_s"] / other["wall_s"] for own, other in pairs]),
        # Processor time suffers less from what else the machine does.
        "cpu_ratio": _spread([own["cpu_s"] / other["cpu_s"] for own, other in pairs]),
        "answers": len(answers),
        "answers_equal": sum(answers),
    }


def _spread(values: list[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 3) for name, value in found.items()}


def _equal(ours: dict[str, Any], theirs: dict[str, Any]) -> list[bool]:
    """Say of each answer whether all of its tokens are the same.

    kvpress does not look whether its first token ends the text, so it is cut where ours ended.
    """
    pairs = zip(ours["tokens"], theirs["tokens"], strict=True)
    return [own == (other[: len(own)] if len(own) < NEW_TOKENS else other) for own, other in pairs]


def part(quick: bool = False) -> dict[str, Any]:
    """Run it, and say in a line what came out; for ``python -m benchmarks``."""
    print("dense KV-budget sweep: kvlab's one prefill against the kvpress pipeline at each ratio", flush=True)
    found = run(1, 1, (1.0, 0.5)) if quick else run()
    if found is None:
        print(f"  {SKIPPED}", flush=True)
        return {"skipped": SKIPPED}
    ratio = found["ratio"]
    print(
        f"  wall time {ratio['median']:.2f} of kvpress' ({ratio['min']:.2f} to {ratio['max']:.2f}), "
        f"processor time {found['cpu_ratio']['median']:.2f}, "
        f"{found['answers_equal']} of {found['answers']} answers equal, token by token",
        flush=True,
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kv_sweep")
    parser.add_argument("--examples", type=int, default=4, choices=range(1, len(WORDS) + 1))
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    found = run(options.examples, options.repeats)
    print(SKIPPED if found is None else json.dumps(found))


if __name__ == "__main__":
    main()
