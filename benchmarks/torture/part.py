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

        if argument == "load":
            from benchmarks.torture import load_kills

            return load_kills.run(seed, instants=1 if quick else 20)
        scene = scenes(quick=quick)[argument.removeprefix("command:")]
        if argument.startswith("command:"):
            from benchmarks.torture import command_kills

            return command_kills.run(scene, seed, instants=1 if quick else 20)
        return kills.run(scene, seed, instants=2 if quick else 20, boundaries=4 if quick else None)
    if part == "faults":
        from benchmarks.torture import faults

        names = faults.chosen(quick=quick)
        if argument == "transports":
            return faults.transports(names)
        return [{"pairs": faults.pairs, "load": faults.load}[argument](names)]
    if part == "fuzz":
        from benchmarks.torture.fuzz import attack
        from benchmarks.torture.place import place

        with place("http://127.0.0.1:9/v1"):
            if argument == "server":
                from benchmarks.torture import fuzz_server as fuzzed
            else:
                from benchmarks.torture import fuzz_files as fuzzed  # type: ignore[no-redef]
            return [attack(target, seed, share=0.01 if quick else 1.0) for target in fuzzed.targets()]
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
