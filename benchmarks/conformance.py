"""``python -m benchmarks.conformance``: kvlab's policies against kvpress, live, on tiny models.

kvpress runs in `.venv-kvpress` (`make conformance` makes it). ``--write-golden`` stores what it said
for the tests, which need no kvpress.
"""

import argparse
import json
import os
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from benchmarks.kvpress import ours

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-kvpress" / "bin" / "python"
GOLDEN = ROOT / "tests" / "policies" / "kvpress_golden.json"


def reference(module: str, *arguments: str) -> dict[str, Any]:
    """Run a module of `benchmarks.kvpress` inside the kvpress environment; return the JSON it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "reference.json"
        command = [str(PYTHON), "-m", f"benchmarks.kvpress.{module}", str(output), *arguments]
        subprocess.run(command, check=True, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        found: dict[str, Any] = json.loads(output.read_text())
        return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformance")
    parser.add_argument("--write-golden", action="store_true", help=f"write {GOLDEN.relative_to(ROOT)}")
    options = parser.parse_args()
    if not PYTHON.exists():
        raise SystemExit("there is no kvpress environment; `make conformance` builds it")
    torch.set_num_threads(1)
    theirs = reference("reference")
    versions = ", ".join(f"{name} {theirs[name]}" for name in ("kvpress", "transformers", "torch"))
    print(f"reference: {versions}")
    found = list(ours.compare(theirs["cases"]))
    by_policy: dict[str, Counter[str]] = {}
    for case, kept, tokens in found:
        count = by_policy.setdefault(f"{case.policy_id}, {case.query_mode}", Counter())
        count += Counter(cases=1, kept=int(kept), compared=int(tokens is not None), tokens=int(bool(tokens)))
    for name, count in by_policy.items():
        print(
            f"  {name}: kept entries equal in {count['kept']} of {count['cases']} cases, "
            + (
                f"greedy tokens in {count['tokens']} of {count['compared']}"
                if count["compared"]
                else "greedy tokens not compared in this mode"
            )
        )
    if options.write_golden:
        GOLDEN.write_text(json.dumps(theirs, separators=(",", ":")) + "\n")
        print(f"written: {GOLDEN.relative_to(ROOT)}")
    if wrong := [case.key for case, kept, tokens in found if not kept or tokens is False]:
        raise SystemExit("differs: " + "; ".join(wrong))


if __name__ == "__main__":
    main()
