"""The tables of the report."""

from typing import Any

import pandas as pd

from kvlab.experiments.cache_laws.outcomes import Outcomes
from kvlab.findings import Table
from kvlab.laws.law import CacheLaw

_FIELDS = {
    "grain_tokens": "tokens in a step of reuse",
    "always_computed_tokens": "last tokens, always computed",
    "minimum_tokens": "fewest tokens that are reused",
    "grains_off": "steps taken off every hit",
    "tail_grain_tokens": "steps in which the end is cut off",
    "shared_start_tokens": "tokens that all prompts share",
    "cap_tokens": "most tokens that are reused",
}


def tables(found: Outcomes) -> list[Table]:
    """Return the tables of what was asked for."""
    made = []
    if found.law is not None:
        made.append(_expected(found, found.law))
    if "law" in found.params.parts:
        made += [_law(found), _held_out(found)]
    made += [make(found) for part, make in _PARTS.items() if part in found.params.parts]
    return [*made, _probes(found)]


def _expected(found: Outcomes, law: CacheLaw) -> Table:
    held = int(found.get("law")["held_to_tokens"])
    shortest = found.shortest_hit_tokens or 0
    lengths = {16, 32, 64, 100, 128, 250, 500, 1000, 2000, 4000, 8000, shortest - 1, shortest, held}
    rows = []
    for n in sorted(n for n in lengths if 1 < n <= held):
        read = law.full_hit(n)
        rows.append(
            {
                "prompt_tokens": n,
                "reused_tokens": read,
                "computed_tokens": n - read,
                "reused_pct": 100 * read / n,
            }
        )
    return Table(
        name="expected_hits",
        title="What to expect of a prompt that is repeated whole",
        columns=["prompt_tokens", "reused_tokens", "computed_tokens", "reused_pct"],
        rows=rows,
        digits={"reused_pct": 1},
        note="By the law, at lengths that it was held to; no more than this can be a hit, however warm the cache is.",
    )


def _law(found: Outcomes) -> Table:
    rows = []
    for name, words in _FIELDS.items():
        learned, declared = (getattr(law, name) if law else None for law in (found.law, found.declared))
        rows.append({"what": words, "learned": learned, "declared": declared})
    source = f"declared by {found.declared_source}" if found.declared else "the server declares no law"
    return Table(
        name="law",
        title="The law, learned and declared",
        columns=["what", "learned", "declared"],
        rows=rows,
        note=f"A dash: none, the same as the step, or not known; {source}.",
    )


def _held_out(found: Outcomes) -> Table:
    rows: list[dict[str, Any]] = []
    for row in found.held_out.to_dict("records"):
        shared = "all, repeated" if row["whole"] else row["shared_tokens"]
        as_said = row["cached_tokens"] == row["predicted"]
        rows.append(
            {
                "prompt_tokens": row["prompt_tokens"],
                "shared": shared,
                "predicted_tokens": row["predicted"],
                "cached_tokens": row["cached_tokens"],
                "as_predicted": "yes" if as_said else "no",
                "times": row["times"],
            }
        )
    return Table(
        name="held_out",
        title="Held-out prompts: predicted, then asked",
        columns=["prompt_tokens", "shared", "predicted_tokens", "cached_tokens", "as_predicted", "times"],
        rows=rows,
        headers={"shared": "Shared tokens", "times": "Times asked"},
        note="Each prediction was made before the prompt was sent. A reading that is too low is asked again: it may be an eviction.",
    )


def _capacity(found: Outcomes) -> Table:
    keys = (
        "tokens_low", "tokens_high", "declared_tokens", "policy", "possible_policies", "predicted", "held_out", "reason",
    )  # fmt: skip
    return _listed("capacity", "How much the cache holds, and what goes first", found.get("capacity"), keys)


def _lifetime(found: Outcomes) -> Table:
    columns = ["wait_s", "kept", "n"]
    return Table(
        name="lifetime",
        title="Idle entries over time",
        columns=columns,
        rows=[{name: one[name] for name in columns} for one in found.get("lifetime").get("curve", ())],
        digits={"wait_s": 1},
        note="kept: how many of n prompts were served whole after the wait.",
    )


def _sharing(found: Outcomes) -> Table:
    outcome, rows = found.get("sharing"), []
    for name in ("salt", "key"):
        if name in outcome:
            rows.append(
                {"between": name, "verdict": outcome[name]["verdict"], "evidence": outcome[name]["reason"]}
            )
    if (seen := outcome.get("replicas")) is not None:
        rows.append(
            {"between": "replicas", "verdict": str(seen["number"] or "unknown"), "evidence": seen["reason"]}
        )
    return Table(
        name="sharing", title="Who shares the cache", columns=["between", "verdict", "evidence"], rows=rows
    )


def _fidelity(found: Outcomes) -> Table:
    keys = ("verdict", "prompts", "hit_differs", "cold_differs", "near_ties", "p", "unproven", "reason")
    return _listed("fidelity", "Answers after a hit and after cold starts", found.get("fidelity"), keys)


def _listed(name: str, title: str, outcome: Any, keys: tuple[str, ...]) -> Table:  # noqa: ANN401 - JSON
    rows = []
    for key in keys if outcome else ():
        value = outcome.get(key)
        rows.append({"what": key, "value": ", ".join(value) if isinstance(value, list) else value})
    return Table(name=name, title=title, columns=["what", "value"], rows=rows)


def _probes(found: Outcomes) -> Table:
    frame: pd.DataFrame = found.probes[
        ["part", "own_tokens", "shared_tokens", "prompt_tokens", "cached_tokens", "tenant", "note"]
    ]
    return Table(
        name="probes",
        title="Every probe, in the order of sending",
        evidence=True,
        rows=frame,
        headers={"own_tokens": "Content tokens", "shared_tokens": "Of the base"},
        note="Of the base: leading tokens of the content that come from a text that others share; where that is all of it, "
        "the prompt extends that text or repeats it.",
    )


_PARTS = {"capacity": _capacity, "lifetime": _lifetime, "sharing": _sharing, "fidelity": _fidelity}
