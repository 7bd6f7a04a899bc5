"""How often does a comparison cry wolf, what does it see, and does its interval cover? On times whose truth is known.

A world draws pairs: what a trial takes (of one length: the usual; of many: from 0.5 to 2 times that), and noise on the
logarithm, normal or with the tails of Student's t with 3 degrees of freedom. The second side is longer by the planted
effect. Four ways to call a difference look at the same draws:

    kvlab ab        bets on the pairs (`kvlab.stats.anytime`), looked at after every block
    kvlab compare   Student's t of the log ratios of pairs, once
    plain t         Welch's t of the times themselves, as people do it
    overlap         "the two 95 % intervals do not overlap"

The last three are also tried with a look after every block: what people do who wait for a result.

What a sequential rule can save has a bound. Against a fixed design of 80 % power whose spread is known beforehand, Wald's
own test, which knows spread and effect, saves 37 %; no rule saves more. A rule that must not know them is measured here
against the fixed design of the *same* power, and against the one that is planned for the margin.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks.detector import share
from kvlab.stats import ratios
from kvlab.stats.anytime import Bets

MARGIN = 0.05
SPREADS = (0.1, 0.2)
TAILS = ("normal", "t3")
LENGTHS = ("one length", "many lengths")
MOST = 400
FIRST_LOOK = 6
Pairs = tuple[np.ndarray, np.ndarray]


def draw(
    rng: np.random.Generator, n: int, effect: float, spread: float, tail: str, lengths: str = "many lengths"
) -> Pairs:
    """Return the logarithms of both sides' times, pair by pair; ``spread`` is that of a pair's log ratio."""
    trial = rng.uniform(math.log(0.5), math.log(2), n) * (lengths == "many lengths")
    noise = [_noise(rng, n, tail) * spread / math.sqrt(2) for _ in range(2)]
    return trial + noise[0], trial + noise[1] + math.log1p(effect)


def _noise(rng: np.random.Generator, n: int, tail: str) -> np.ndarray:
    found = rng.standard_normal(n) if tail == "normal" else rng.standard_t(3, n) / math.sqrt(3)
    return np.asarray(found)


def bets(pairs: Pairs, most: int = MOST) -> tuple[str, int]:
    """Return what `kvlab ab` says of these pairs, and after how many."""
    found = Bets(MARGIN)
    for n, x in enumerate((pairs[1] - pairs[0])[:most], start=1):
        if found.add(float(x)) != "undecided":
            return found.outcome, n
    return "undecided", min(most, len(pairs[0]))


def paired(pairs: Pairs) -> str:
    """Return what `kvlab compare` says."""
    return ratios.paired((pairs[1] - pairs[0]).tolist()).outcome(MARGIN, 0.95)


def plain_t(pairs: Pairs) -> str:
    """Return what Welch's t of the times says: ``slower``, ``faster`` or ``undecided``."""
    first, second = np.exp(pairs[0]), np.exp(pairs[1])
    found = stats.ttest_ind(second, first, equal_var=False)
    if not found.pvalue < 0.05:
        return "undecided"
    return "slower" if found.statistic > 0 else "faster"


def overlap(pairs: Pairs) -> str:
    """Return what follows from whether the means' 95 % intervals overlap."""
    ends = []
    for logs in pairs:
        times = np.exp(logs)
        half = stats.t.ppf(0.975, len(times) - 1) * times.std(ddof=1) / math.sqrt(len(times))
        ends.append((times.mean() - half, times.mean() + half))
    if ends[1][0] > ends[0][1]:
        return "slower"
    return "faster" if ends[1][1] < ends[0][0] else "undecided"


RULES: dict[str, Callable[[Pairs], str]] = {
    "kvlab compare": paired, "plain t": plain_t, "intervals overlap": overlap,
}  # fmt: skip


def peeking(rule: Callable[[Pairs], str], pairs: Pairs, most: int) -> tuple[str, int]:
    """Return the first difference that a rule calls with a look after every block, and when."""
    for n in range(FIRST_LOOK, most + 1):
        found = rule((pairs[0][:n], pairs[1][:n]))
        if found in ("faster", "slower"):
            return found, n
    return "undecided", most


def false_alarms(runs: int, most: int = 120) -> list[dict[str, Any]]:
    """Return how often two equal sides are called different, with a look after every block."""
    rows, spread = [], 0.15
    for lengths in LENGTHS:
        for tail in TAILS:
            rng = np.random.default_rng(11)
            worlds = [draw(rng, MOST, 0.0, spread, tail, lengths) for _ in range(runs)]
            said = [bets(pairs)[0] for pairs in worlds]
            world = {"trials of": lengths, "tail": tail}
            rows.append({**world, "rule": "kvlab ab", "looks": f"each of {MOST}", "alarms": _alarms(said)})
            for name, rule in RULES.items():
                looked = [peeking(rule, pairs, most)[0] for pairs in worlds]
                rows.append({**world, "rule": name, "looks": f"each of {most}", "alarms": _alarms(looked)})
                once = [rule((a[:most], b[:most])) for a, b in worlds]
                rows.append({**world, "rule": name, "looks": f"once, at {most}", "alarms": _alarms(once)})
    return rows


def _alarms(said: list[str]) -> dict[str, Any]:
    return share([item in ("faster", "slower") for item in said])


def power(runs: int) -> list[dict[str, Any]]:
    """Return how often a true difference of the margin is called, and what it costs against fixed designs."""
    rows = []
    for effect, spread, tail in itertools.product((MARGIN, 2 * MARGIN), SPREADS, TAILS):
        rng = np.random.default_rng(12)
        most = math.ceil(48 * (spread / math.log1p(MARGIN)) ** 2)
        made = [bets(draw(rng, most, effect, spread, tail), most) for _ in range(runs)]
        right = share([said == "slower" for said, _ in made])
        pairs = float(np.mean([n for _, n in made]))
        equal, planned = fixed(spread, min(right["rate"], 0.999), effect), fixed(spread, 0.8)
        rows.append({
            "effect": effect, "spread": spread, "tail": tail, "power": right, "pairs_mean": round(pairs, 1),
            "pairs_median": float(np.median([n for _, n in made])), "fixed_same_power": equal,
            "saved": round(1 - pairs / equal, 3), "fixed_80_for_margin": planned,
            "saved_against_it": round(1 - pairs / planned, 3),
        })  # fmt: skip
    return rows


def fixed(spread: float, wanted: float, effect: float = MARGIN) -> int:
    """Return the pairs of a fixed design with this power at an effect, its spread known beforehand."""
    z = stats.norm.ppf(0.975) + stats.norm.ppf(wanted)
    return math.ceil((z * spread / math.log1p(effect)) ** 2)


def planted(runs: int, n: int = 60, spread: float = 0.15) -> list[dict[str, Any]]:
    """Return what each rule says of effects of known size: `kvlab ab` with at most ``n`` pairs, the others once at ``n``."""
    rows = []
    for effect in (0.0, 0.05, 0.1, 0.2):
        for tail in TAILS:
            rng = np.random.default_rng(13)
            worlds = [draw(rng, n, effect, spread, tail) for _ in range(runs)]
            turns = [bets(pairs, n) for pairs in worlds]
            said = {"kvlab ab": [item for item, _ in turns]}
            said |= {name: [rule(pairs) for pairs in worlds] for name, rule in RULES.items()}
            for name, found in said.items():
                pairs_mean = float(np.mean([k for _, k in turns])) if name == "kvlab ab" else float(n)
                counts = {
                    word: found.count(word) / runs for word in ("slower", "faster", "equivalent", "undecided")
                }
                rows.append(
                    {"effect": effect, "tail": tail, "rule": name, "pairs": round(pairs_mean, 1), **counts}
                )
    return rows


def coverage(runs: int, between: float = 0.05, within: float = 0.1, trials: int = 20) -> list[dict[str, Any]]:
    """Return how often the ratio's interval covers where engine starts differ by 5 %: over starts, and as if pairs were all."""
    rows = []
    for starts in (1, 3, 5):
        rng = np.random.default_rng(14)
        hit: dict[str, list[bool]] = {
            name: [] for name in ("over starts", "over pairs", "plain t", "intervals overlap")
        }
        width: dict[str, list[float]] = {name: [] for name in hit}
        for _ in range(runs):
            sides = [
                rng.normal(0, between, (starts, 1)) + rng.normal(0, within, (starts, trials))
                for _ in range(2)
            ]
            pairs = sides[0].ravel(), sides[1].ravel()
            effects = {"over pairs": ratios.paired((pairs[1] - pairs[0]).tolist())}
            if starts >= ratios.LEAST_STARTS:
                means = [side.mean(axis=1).tolist() for side in sides]
                effects["over starts"] = ratios.over_starts(means[0], means[1])
            for name, effect in effects.items():
                found = effect.interval(0.95)
                if found.low is not None and found.high is not None:
                    hit[name].append(found.low <= 1 <= found.high)
                    width[name].append(found.high - found.low)
            hit["plain t"].append(plain_t(pairs) == "undecided")
            hit["intervals overlap"].append(overlap(pairs) == "undecided")
        rows += [
            {"starts": starts, "trials": trials, "interval": name, "covered": share(hits),
             "width_median": round(float(np.median(width[name])), 3) if width[name] else None}
            for name, hits in hit.items()
        ]  # fmt: skip
    return rows


def run(runs: int = 1000) -> dict[str, list[dict[str, Any]]]:
    """Return all four tables; the same for the same number of runs."""
    return {
        "false_alarms": false_alarms(min(runs, 200)), "power": power(runs), "planted": planted(runs),
        "coverage": coverage(2 * runs),
    }  # fmt: skip


def tables(found: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """Return the tables for the terminal."""
    made = []
    for name, rows in found.items():
        table = Table(*rows[0], title=name)
        for row in rows:
            table.add_row(*(_cell(value) for value in row.values()))
        made.append(table)
    return made


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        if value["rate"] is None:
            return "none given"
        return f"{value['rate']:.1%} [{value['low']:.1%}, {value['high']:.1%}]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def part(quick: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Run it and print the tables; for ``python -m benchmarks``."""
    print("comparison: false alarms with peeking, power, planted effects, coverage over starts", flush=True)
    found = run(40 if quick else 1000)
    for table in tables(found):
        Console(width=150).print(table)
    return found


if __name__ == "__main__":
    part()
