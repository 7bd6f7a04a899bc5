"""``python -m benchmarks.torture.part PART ARGUMENT SEED [--quick]``: one part in a process of its own.

Prints its rows, one line of JSON each.
"""

from __future__ import annotations

import argparse

from benchmarks.torture.counts import Counts


def rows(part: str, argument: str, seed: int, *, quick: bool) -> list[Counts]:
    """Return the rows of a part."""
    if part == "kills":
        from benchmarks.torture import kills
        from benchmarks.torture.scenes import scenes

        scene = scenes(quick=quick)[argument]
        return kills.run(scene, seed, instants=2 if quick else 20, boundaries=4 if quick else None)
    if part == "faults":
        from benchmarks.torture import faults

        names = faults.chosen(quick=quick)
        if argument == "transports":
            return faults.transports(names)
        return [{"pairs": faults.pairs, "load": faults.load}[argument](names)]
    raise ValueError(f"no such part: {part}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture.part")
    parser.add_argument("part")
    parser.add_argument("argument")
    parser.add_argument("seed", type=int)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    for row in rows(given.part, given.argument, given.seed, quick=given.quick):
        print(row.to_line(), flush=True)


if __name__ == "__main__":
    main()
