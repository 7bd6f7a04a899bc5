"""Does each published interval cover, and is each verdict's error rate what it says, in the worlds an attacker would choose?

Every figure that kvlab prints with an interval is drawn again and again from worlds whose truth is known: skewed, with
rare outliers, with ties, alike in time, in contexts of unequal sizes, with answers that are missing because they
are wrong, with very few units. A row says how often there was an interval (``given``), how often such a one covered
(``covered``), and what it was called. One that is called "95 %" without a condition must cover at least 90 % in every
world; where no method does, there is none, or its name says what it takes for granted (``label``). The second table
holds rates: of wrong claims, which have a bound, and of right ones, which have none and are what is paid for it.

``python -m benchmarks.coverage`` runs it alone and prints what it found.
"""

import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import coverage_worlds as worlds
from benchmarks.coverage_claims import Rate, rates
from benchmarks.coverage_worlds import Case
from benchmarks.detector import share

#: What an interval called "95 %" covers at least in every world.
LEAST_COVERED = 0.90


def measured(case: Case, simulations: int, seed: int) -> dict[str, Any]:
    """Return a case's row."""
    rng = np.random.default_rng(seed)
    runs = max(20, round(simulations * case.simulations))
    made = [case.draw(rng) for _ in range(runs)]
    given = [(found, truth) for found, truth in made if found.low is not None and found.high is not None]
    widths = [found.high - found.low for found, _ in given]  # type: ignore[operator]
    hits = [found.low - 1e-12 <= truth <= found.high + 1e-12 for found, truth in given]  # type: ignore[operator]
    return {
        "figure": case.figure, "world": case.world, "n": case.n, "runs": runs, "given": len(given) / runs,
        "covered": share(hits), "width_median": float(np.median(widths)) if widths else None, "label": sorted({found.label for found, _ in given}),
        "method": sorted({found.method for found, _ in given}),
    }  # fmt: skip


def rated(rate: Rate, simulations: int, seed: int) -> dict[str, Any]:
    """Return a rate's row."""
    runs = max(20, round(simulations * rate.simulations))
    found = share(rate.draw(np.random.default_rng(seed), runs))
    return {"claim": rate.claim, "world": rate.world, "n": rate.n, "made": found, "at_most": rate.at_most}


def run(simulations: int = 1000) -> dict[str, list[dict[str, Any]]]:
    """Return both tables; the same for the same number of simulations."""
    start = time.perf_counter()
    cases = [case for part in worlds.PARTS for case in part()]
    intervals = [measured(case, simulations, 1000 + k) for k, case in enumerate(cases)]
    print(f"  coverage: {len(intervals)} intervals in {time.perf_counter() - start:.0f} s", flush=True)
    claims = [rated(rate, simulations, 9000 + k) for k, rate in enumerate(rates())]
    print(f"  coverage: {len(claims)} rates, {time.perf_counter() - start:.0f} s in all", flush=True)
    return {"intervals": intervals, "rates": claims}


def broken(found: dict[str, list[dict[str, Any]]], slack: float = 0.0) -> list[str]:
    """Return the rows that are not what they are called: in words, none if all is right.

    Args:
        found: Both tables.
        slack: By how much a rate may lie beyond its bound, where there are few runs.
    """
    lines = []
    for row in found["intervals"]:
        covered = row["covered"]
        if "95 %" in row["label"] and covered["n"] and covered["rate"] < LEAST_COVERED - slack:
            lines.append(f"{row['figure']}, {row['world']}, n = {row['n']}: {covered['rate']:.1%} of '95 %'")
    for row in found["rates"]:
        made = row["made"]
        if row["at_most"] is not None and made["n"] and made["rate"] > row["at_most"] + slack:
            lines.append(f"{row['claim']}, {row['world']}, n = {row['n']}: {made['rate']:.1%}")
    return lines


def tables(found: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """Return both tables for the terminal."""
    first = Table("figure", "world", "n", "given %", "covered %", "called", title="intervals")
    for row in found["intervals"]:
        covered = row["covered"]["rate"]
        first.add_row(
            row["figure"], row["world"], str(row["n"]), f"{100 * row['given']:.0f}",
            "–" if covered is None else f"{100 * covered:.1f}", "; ".join(row["label"]) or "none given",
        )  # fmt: skip
    second = Table("claim", "world", "n", "made %", "at most %", title="rates")
    for row in found["rates"]:
        made, bound = row["made"]["rate"], row["at_most"]
        second.add_row(
            row["claim"], row["world"], str(row["n"]), "–" if made is None else f"{100 * made:.1f}",
            "–" if bound is None else f"{100 * bound:g}",
        )  # fmt: skip
    return [first, second]


def part(quick: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Run it, print both tables and what is not as it is called; for ``python -m benchmarks``."""
    print("coverage: every published interval and rate, in worlds whose truth is known", flush=True)
    found = run(40 if quick else 1000)
    for table in tables(found):
        Console(width=170).print(table)
    for line in broken(found):
        print(f"  not as it is called: {line}", flush=True)
    return found


if __name__ == "__main__":
    part()
