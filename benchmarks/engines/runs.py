"""One experiment on one server: the command as a user runs it, and a row of the table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.engines.servers import Place
from benchmarks.engines.truth import Agreement, answered
from kvlab.laws.law import CacheLaw

#: What is run, in this order, with parameters that take a minute or two on two cores.
EXPERIMENTS: dict[str, tuple[str, ...]] = {
    "doctor": (),
    "token_sweep": ("--profile", "smoke", "--set", "token_targets=[300,640]", "--set", "repeats=6", "--set", "max_tokens=4"),
    "cache_laws": ("--profile", "endpoint", "--set", "parts=[law]", "--set", "max_prompt_tokens=2048"),
    "context_limit_probe": (
        "--profile", "smoke", "--set", "exchanges=[2,10,40]", "--set", "cold_tokens=[512]", "--set", "quality_steps=1",
        "--set", "cut_steps=2", "--set", "replay_exchanges=6",
    ),
    "batch_benchmark": ("--profile", "smoke", "--set", "sizes=[6,12,24]"),
}  # fmt: skip
_LIMIT_S = 900.0


@dataclass(frozen=True)
class Row:
    """What an experiment said of a server.

    Attributes:
        engine: The server.
        experiment: Its name.
        verdict: Of the run; of `doctor`, what it says can be proven.
        why: The first reason, where it is not PASS.
        law: What the cache reuses, as the run knew or learned it.
        held_out: Predictions of the law that held, of how many; ``None``: none was learned in this run.
        pairs: Proven pairs, of those that were planned; ``None``: it has no pairs.
        states: How many answers have each label.
        account: Answers that are as the server's own account says.
        account_off: The first that are not.
        wall_s: From the command's start to its end.
        folder: Of the run.
    """

    engine: str
    experiment: str
    verdict: str
    why: str
    law: str | None
    held_out: str | None
    pairs: str | None
    states: dict[str, int]
    account: str
    account_off: tuple[str, ...]
    wall_s: float
    folder: str

    def as_json(self) -> dict[str, Any]:
        """The row as it is written."""
        return asdict(self)


def command(
    place: Place, *arguments: str, outputs: Path, limit_s: float = _LIMIT_S
) -> tuple[int, str, float]:
    """Run ``kvlab`` against a server; returns the exit code, all that it said, and how long it took in s."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("OPENAI_", "SCENARIO_"))}
    empty = outputs / "empty.env"
    empty.touch()
    env = {**kept, **place.environment(), "KVLAB_OUTPUTS": str(outputs), "KVLAB_ENV_FILE": str(empty)}
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "kvlab", *arguments],
            env=env, capture_output=True, text=True, errors="replace", timeout=limit_s, check=False,
        )  # fmt: skip
        code, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        code, said = 124, f"not done after {limit_s:.0f} s: {(late.stdout or b'')[-2000:]!r}"
    return code, said, time.monotonic() - began


def run(place: Place, experiment: str, outputs: Path, more: tuple[str, ...] = ()) -> Row:
    """Run one experiment, and hold its labels against the server's own account."""
    outputs.mkdir(parents=True, exist_ok=True)
    if experiment == "doctor":
        return _doctor(place, outputs)
    if place.truth is not None:
        place.truth.begin()
    arguments = ("run", experiment, *(more or EXPERIMENTS[experiment]))
    code, said, wall_s = command(place, *arguments, outputs=outputs)
    found = re.search(r"^run folder: (.+)$", said, re.MULTILINE)
    folder = Path(found[1]) if found else None
    if folder is None or not (folder / "summary.json").is_file():
        tail = " ".join(said.split())[-300:]
        return Row(
            place.name, experiment, f"exit {code}", tail, None, None, None, {}, "–", (), wall_s, str(folder)
        )
    return _row(place, experiment, folder, wall_s)


def _row(place: Place, experiment: str, folder: Path, wall_s: float) -> Row:
    summary = json.loads((folder / "summary.json").read_text())
    identity = json.loads((folder / "manifest.json").read_text()).get("endpoint_identity") or {}
    results: Mapping[str, Any] = summary.get("results") or {}
    law, held_out = _law(identity), None
    learned = results.get("law") if experiment == "cache_laws" else None
    if learned and learned.get("formula"):
        held_out = f"{learned['predicted']} of {learned['held_out']}"
        law = CacheLaw.reported(results)
    agreement = Agreement(why="nobody keeps one")
    if place.truth is not None:
        agreement = place.truth.compare(folder, law)
    states: dict[str, int] = {}
    for row in answered(folder):
        states[row["cache_state"]] = states.get(row["cache_state"], 0) + 1
    reasons = summary.get("reasons") or []
    return Row(
        engine=place.name,
        experiment=experiment,
        verdict=str(summary.get("verdict")),
        why="" if summary.get("verdict") == "PASS" else " | ".join(map(str, reasons))[:400],
        law=None if law is None else law.formula.removeprefix("cached(L, P) = "),
        held_out=held_out,
        pairs=_pairs(results),
        states=states,
        account=str(agreement),
        account_off=agreement.off,
        wall_s=round(wall_s, 1),
        folder=str(folder),
    )


def _law(identity: Mapping[str, Any]) -> CacheLaw | None:
    if identity.get("learned_law"):
        return CacheLaw(**identity["learned_law"])
    return CacheLaw.whole_blocks(identity["block_size"]) if identity.get("block_size") else None


def _pairs(results: Mapping[str, Any]) -> str | None:
    for valid, all_of in (("pairs_valid", "pairs_planned"), ("valid_pairs", "planned_pairs")):
        if results.get(valid) is not None:
            return f"{results[valid]} of {results.get(all_of)}"
    return None


def _doctor(place: Place, outputs: Path) -> Row:
    code, said, wall_s = command(place, "doctor", outputs=outputs)
    text = " ".join(re.sub(r"[│┃╭╮╰╯─━┏┓┗┛┡┩├┤┬┴┼╇]", " ", said).split())
    lacks = re.search(r"times only, verdict INVALID \(([^)]*)\)", text)
    verdict = (
        f"exit {code}" if code else "cold and hits cannot be proven" if lacks else "can prove cold and hits"
    )
    why = text[-300:] if code else lacks[1] if lacks else ""
    return Row(place.name, "doctor", verdict, why, None, None, None, {}, "–", (), round(wall_s, 1), "")
