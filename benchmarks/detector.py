"""How often does a transition detector see one that is not there, and how often one that is?

Answers are drawn with a known truth and given to both rules: the calibrated one (`kvlab.compression.transition.detect`,
with Holm over bins) and the point rule (`kvlab.compression.transition.point_rule`). The answers of one example at two
budgets are independent given their means, which is the hardest case, unless the kind says ``paired``: there an example
that is right stays right until it breaks, as greedy decoding does.

- ``beta``: scores between 0 and 1, like F1; ``binary``: 0 or 1, like EM, with the SD that its mean gives.
- ``clustered``: two examples a context, with the same scores: half as much is known as it seems.
- ``null``: nothing falls. ``at the margin``: everything falls by exactly the margin, which is still no
  transition: the hardest null.
- Cliffs: from a place drawn anew in each simulation, uniform over the whole range, scores are lower by the
  height. Power is the share of calls; coverage that of location intervals, over the planned budgets and
  those that bisection adds, which contain the place.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import binomtest

from kvlab.compression.transition.drop import holm, leading, p_exceeds, p_holds
from kvlab.compression.transition.location import interval
from kvlab.compression.transition.point_rule import first_step
from kvlab.compression.transition.refine import next_budget

BINS = 5
DRAWS = 2_000  # of each test's weights, where the product has 9,999: a p-value of 0.025 is known to 0.003
MARGIN, ALPHA, THRESHOLD, CONFIDENCE = 0.05, 0.05, 0.10, 0.95
DENSE = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2])
SPARSE = np.array([1.0, 0.5, 0.2])
#: Kind, mean at budget 1.0, SD of an answer (a binary mean of 0.933 has an SD of 0.25, of 0.72 one of 0.45).
ANSWERS = (
    ("beta", 0.6, 0.25), ("beta", 0.6, 0.35), ("beta", 0.5, 0.45),
    ("binary", 0.933, 0.25), ("binary", 0.72, 0.45), ("clustered", 0.72, 0.45),
)  # fmt: skip


@dataclass(frozen=True)
class World:
    """Where answers come from: their kind, their mean at budget 1.0, and their SD."""

    kind: str
    mean: float
    sd: float

    def draw(self, means: Any, n: int, rng: np.random.Generator) -> Any:
        """Return scores; [simulations, budgets, n] from the means of [simulations, budgets]."""
        shape = (*means.shape, n)
        means = np.clip(means, 0.0, 1.0)[..., None]
        if self.kind == "paired":
            return (rng.random((shape[0], 1, n)) < means).astype(float)
        if self.kind == "binary":
            return (rng.random(shape) < means).astype(float)
        if self.kind == "clustered":
            return np.repeat((rng.random((*shape[:2], n // 2)) < means).astype(float), 2, axis=-1)
        size = means * (1 - means) / np.minimum(self.sd**2, 0.98 * means * (1 - means)) - 1
        return rng.beta(means * size, (1 - means) * size, shape)

    def clusters(self, n: int) -> Any:
        return np.arange(n) // (2 if self.kind == "clustered" else 1)


def calls(scores: Any, clusters: Any, bins: Any, draws: int = DRAWS) -> dict[str, Any]:
    """Return what both rules say of each simulation; scores of [simulations, budgets, examples]."""
    drops = scores[:, :1] - scores[:, 1:]
    how: Any = {"seed": 1, "draws": draws}
    p = p_exceeds(drops, clusters, MARGIN, **how)
    lowest = [p_exceeds(drops[:, -1, bins == b], clusters[bins == b], MARGIN, **how) for b in range(BINS)]
    reached = leading(p[:, ::-1] <= ALPHA / 2)
    held = p_holds(drops, clusters, MARGIN, **how) <= ALPHA / 2
    return {
        "called": reached > 0,
        "fails_index": drops.shape[1] - reached,  # the largest budget the sequence has reached
        "any_bin": (holm(np.stack(lowest, axis=-1)) <= ALPHA / 2).any(axis=-1),
        "none_claimed": (reached == 0) & held.all(axis=-1),
        "point_rule": first_step(scores.mean(axis=-1), THRESHOLD) > 0,
    }


def share(hits: Any) -> dict[str, Any]:
    """Return a rate with its exact 95 % binomial interval (Clopper & Pearson 1934)."""
    if not len(hits):
        return {"rate": None, "low": None, "high": None, "n": 0}
    count, n = int(np.sum(hits)), len(hits)
    found = binomtest(count, n).proportion_ci(0.95)
    return {"rate": count / n, "low": round(found.low, 4), "high": round(found.high, 4), "n": n}


def false_alarms(
    world: World, per_bin: int, budgets: Any, fall: float, simulations: int, seed: int, draws: int = DRAWS
) -> dict[str, Any]:
    """Return both rules' rates where all budgets below 1.0 are lower by ``fall``, at most the margin."""
    rng = np.random.default_rng(seed)
    n = BINS * per_bin
    bins, clusters = np.arange(n) // per_bin, world.clusters(n)
    parts = []
    for start in range(0, simulations, 250):
        size = min(250, simulations - start)
        means = np.full((size, len(budgets)), world.mean) - fall * (budgets < 1)
        parts.append(calls(world.draw(means, n, rng), clusters, bins, draws))
    found = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    return {
        "truth": "at the margin" if fall else "null", "kind": world.kind, "sd": world.sd, "per_bin": per_bin,
        "budgets": len(budgets), "overall": share(found["called"]), "bins": share(found["any_bin"]),
        "either": share(found["called"] | found["any_bin"]), "point_rule": share(found["point_rule"]),
        "none_claimed": share(found["none_claimed"]),
    }  # fmt: skip


def cliffs(
    world: World,
    per_bin: int,
    planned: Any,
    added: int,
    height: float,
    simulations: int,
    seed: int,
    draws: int,
) -> dict[str, Any]:
    """Return power, coverage and width for cliffs of one height at places drawn anew."""
    rng = np.random.default_rng(seed)
    n = BINS * per_bin
    bins, clusters = np.arange(n) // per_bin, world.clusters(n)
    places = rng.uniform(planned[-1], 1.0, simulations)
    scores = world.draw(world.mean - height * (planned < places[:, None]), n, rng)
    found = calls(scores, clusters, bins, draws)
    inside, widths, sides = [], [], []
    for i in np.flatnonzero(found["called"]):
        budgets, rows = _refined(world, planned, scores[i], places[i], height, added, rng)
        drops = rows[:1] - rows[1:]
        low, high = interval(drops, clusters, budgets[1:], "half", MARGIN, CONFIDENCE, seed=1, draws=draws)
        inside.append(low <= places[i] <= high)
        widths.append(float(high - low))
        sides.append(planned[1:][found["fails_index"][i]] < places[i])
    return {
        "height": height, "kind": world.kind, "sd": world.sd, "per_bin": per_bin, "planned": len(planned),
        "added": added, "power": share(found["called"]), "point_rule_power": share(found["point_rule"]),
        "coverage": share(np.array(inside)), "width_median": round(float(np.median(widths)), 3) if widths else None,
        "called_budget_is_below_the_cliff": share(np.array(sides)),
    }  # fmt: skip


def _refined(
    world: World, planned: Any, scores: Any, place: float, height: float, added: int, rng: Any
) -> Any:
    """Add budgets as a run does, each answered anew, and return all, descending."""
    curve = dict(zip(planned.tolist(), scores, strict=True))
    for left in range(added, 0, -1):
        budget = next_budget({b: float(row.mean()) for b, row in curve.items()}, left, 0.02)
        if budget is None:
            break
        if world.kind == "paired":  # the same luck: what broke above is broken, what did not fall is right
            like = max(b for b in curve if (b < place) == (budget < place))
            curve[budget] = curve[like]
        else:
            mean = np.array([[world.mean - height * (budget < place)]])
            curve[budget] = world.draw(mean, scores.shape[-1], rng)[0, 0]
    order = sorted(curve, reverse=True)
    return np.array(order), np.array([curve[b] for b in order])


def run(
    simulations: int = 1000, cliff_simulations: int = 200, draws: int = DRAWS
) -> dict[str, list[dict[str, Any]]]:
    """Return both tables.

    Args:
        simulations: In each null.
        cliff_simulations: For each cliff.
        draws: Of each test's weights.
    """
    nulls = []
    for per_bin in (20, 40, 100):
        for kind, mean, sd in ANSWERS:
            for fall in (0.0, MARGIN):
                world = World(kind, mean, sd)
                nulls.append(false_alarms(world, per_bin, DENSE, fall, simulations, len(nulls), draws))
        nulls.append(
            false_alarms(World("beta", 0.6, 0.35), per_bin, SPARSE, 0.0, simulations, len(nulls), draws)
        )
        print(f"  detector: nulls at n = {per_bin} a bin done", flush=True)
    nulls.append(false_alarms(World("beta", 0.6, 0.35), 2, SPARSE, 0.0, simulations, len(nulls), draws))
    found = []
    for per_bin in (20, 40, 100):
        for kind, mean, sd in (
            ("beta", 0.6, 0.25),
            ("beta", 0.6, 0.35),
            ("binary", 0.72, 0.45),
            ("paired", 0.933, 0.25),
        ):
            for height in (0.1, 0.2, 0.4):
                for planned, added in ((DENSE, 0), (SPARSE, 5)):
                    cell = (World(kind, mean, sd), per_bin, planned, added, height)
                    found.append(cliffs(*cell, cliff_simulations, 1000 + len(found), draws))
        print(f"  detector: cliffs at n = {per_bin} a bin done", flush=True)
    return {"false_alarms": nulls, "cliffs": found}


def tables(found: dict[str, list[dict[str, Any]]]) -> list[Table]:
    """Return both tables for the terminal; rates in %, with their binomial interval."""
    alarms = Table(
        "truth", "answers", "SD", "n a bin", "budgets", "calibrated", "of it overall", "of it bins", "point rule",
        "claims 'none'", title="false alarms (%)",
    )  # fmt: skip
    for row in found["false_alarms"]:
        facts = [row["truth"], row["kind"], f"{row['sd']:g}", str(row["per_bin"]), str(row["budgets"])]
        rates = ("either", "overall", "bins", "point_rule", "none_claimed")
        alarms.add_row(*facts, *(_percent(row[name]) for name in rates))
    cliffs = Table(
        "height", "answers", "SD", "n a bin", "planned + added", "power", "point rule", "coverage", "median width",
        title="cliffs (%)",
    )  # fmt: skip
    for row in found["cliffs"]:
        facts = [f"{row['height']:g}", row["kind"], f"{row['sd']:g}", str(row["per_bin"])]
        rates = [_percent(row[name]) for name in ("power", "point_rule_power", "coverage")]
        width = "–" if row["width_median"] is None else f"{row['width_median']:.3f}"
        cliffs.add_row(*facts, f"{row['planned']} + {row['added']}", *rates, width)
    return [alarms, cliffs]


def _percent(found: dict[str, Any]) -> str:
    if found["rate"] is None:
        return "–"
    return f"{found['rate'] * 100:.1f} ({found['low'] * 100:.1f}–{found['high'] * 100:.1f})"
