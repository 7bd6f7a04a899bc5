"""``python -m benchmarks.torture.part PART ARGUMENT SEED [--quick]``: one part in a process of its own.

Prints its rows, one line of JSON each.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable

from benchmarks.torture import budget
from benchmarks.torture.counts import Counts


def rows(part: str, argument: str, seed: int, *, quick: bool) -> Iterable[Counts]:
    """Return the rows of a part, each as soon as it is there."""
    if part == "kills" and argument == "load":
        from benchmarks.torture import load_kills

        yield from load_kills.run(seed, instants=1 if quick else 20)
    elif part == "kills":
        from benchmarks.torture import kills
        from benchmarks.torture.scenes import scenes

        scene = scenes(quick=quick)[argument.removeprefix("command:")]
        if argument.startswith("command:"):
            from benchmarks.torture import command_kills

            yield from command_kills.run(scene, seed, instants=1 if quick else 20)
            return
        yield from kills.run(scene, seed, instants=1 if quick else 20, boundaries=3 if quick else None)
    elif part == "faults":
        from benchmarks.torture import faults

        names = faults.chosen(quick=quick)
        if argument == "transports":
            yield from faults.transports(names)
        else:
            yield {"pairs": faults.pairs, "load": faults.load}[argument](names)
    elif part == "fuzz":
        from benchmarks.torture.fuzz import attack
        from benchmarks.torture.place import place

        with place("http://127.0.0.1:9/v1"):
            fuzzed = importlib.import_module(f"benchmarks.torture.fuzz_{argument}")
            yield from (attack(target, seed, share=0.01 if quick else 1.0) for target in fuzzed.targets())
    elif part == "notebooks":
        from benchmarks.torture import notebooks
        from benchmarks.torture.scenes import scenes

        stories = notebooks.STORIES[:1] if quick else notebooks.STORIES
        yield from notebooks.run(scenes(quick=quick)[argument], seed, stories=stories)
    else:
        raise ValueError(f"no such part: {part}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture.part")
    parser.add_argument("part")
    parser.add_argument("argument")
    parser.add_argument("seed", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="how long to go on trying")
    given = parser.parse_args()
    budget.give(given.seconds)
    for row in rows(given.part, given.argument, given.seed, quick=given.quick):
        print(row.to_line(), flush=True)


if __name__ == "__main__":
    main()
