"""What differs between two sides, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvlab.comparison.sides import Side, StoredRun

#: Of a contract, what is shown under another name, or says nothing about two runs.
_ELSEWHERE = ("params", "experiment", "machine", "packages")
#: Each run has its own.
_OWN = ("isolation_id",)


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same on both sides.

    Attributes:
        kind: ``params``, ``contract`` (model, server, settings), ``law``, ``versions``, ``machine`` or ``load``.
        field: Its dotted name.
        first, second: What it is on either side; ``None``: it is not there.
    """

    kind: str
    field: str
    first: Any
    second: Any


def differences(first: Side, second: Side) -> list[Difference]:
    """Return what differs between the first runs of two sides, and between all their requests' surroundings."""
    a, b = (_facts(side.first) for side in (first, second))
    for found, side in ((a, first), (b, second)):
        found["load"] = _load(side)
    rows = []
    for kind in a:
        one, two = _flat(a[kind]), _flat(b[kind])
        rows += [
            Difference(kind, field, one.get(field), two.get(field))
            for field in sorted({*one, *two})
            if one.get(field) != two.get(field) and field not in _OWN
        ]
    return rows


def _facts(run: StoredRun) -> dict[str, dict[str, Any]]:
    contract, identity = run.stored["contract"], run.identity
    law = None if identity is None or identity.law is None else identity.law.words
    return {
        "params": dict(run.stored["params"]),
        "contract": {key: value for key, value in contract.items() if key not in _ELSEWHERE},
        "law": {"reuse": law},
        "versions": dict(contract.get("packages") or {}),
        "machine": dict(contract.get("machine") or {}),
    }


def _load(side: Side) -> dict[str, Any]:
    share = side.requests["machine_busy_share"].astype(float).mean()
    starts = f"{side.starts}" if side.starts_known else f"{side.starts} runs, starts unknown"
    return {
        "other_work_share": None if share != share else round(float(share), 2),
        "engine_starts": starts,
        "requests": int(side.requests["used"].sum()),
    }


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found
