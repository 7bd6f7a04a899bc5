"""All that needs an NVIDIA GPU, in ten minutes: ``make gpu-check``, or ``python -m benchmarks.gpu_check``.

Each part is a whole run of the command line, with its own run folder and report, while NVML samples the
card's memory. The embedded server is kept up between the parts that share it. What came out goes to
``outputs/gpu-check/<time>/gpu_check.json``: verdicts, seconds, and how much of the card each part took.
A part that fails, or that leaves the card's memory where it was, fails the check.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kvlab import errors, paths
from kvlab.command.show import prepare, say
from kvlab.runs.contract import gpus
from kvlab.runs.files import read_json, write_json
from kvlab.vram.monitor import Monitor, usage
from kvlab.vram.nvml import NvmlDevice, device_count

TOTAL_S = 600.0
#: A path that runs on the card takes more of it than a driver's context does.
LEAST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Part:
    """One run: what it shows, and the words of the command."""

    name: str
    shows: str
    words: tuple[str, ...]


PARTS = (
    Part("token_sweep", "embedded vLLM on CUDA: labels and times", ("token_sweep", "--profile", "smoke")),
    Part("batch_benchmark", "many requests on CUDA", ("batch_benchmark", "--profile", "smoke")),
    Part(
        "context_limit_probe",
        "context limit, and bytes a token by NVML and torch's allocator",
        ("context_limit_probe", "--profile", "smoke"),
    ),
    Part("prefix_hit_miss", "vLLM inside the notebook's process", ("prefix_hit_miss", "--profile", "smoke")),
    Part(
        "kv_budget_transition",
        "KV policies on CUDA",
        ("kv_budget_transition", "--profile", "smoke", "--set", "engine.device=cuda"),
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a part.

    Attributes:
        code: The command's exit code; ``None``: there was no time left for it, or it was stopped for its time.
        delta_bytes: How far the memory in use on the fullest device rose above its start, whoever took it;
            ``None``: NVML gave no reading, and ``unseen`` says why.
    """

    name: str
    shows: str
    code: int | None
    seconds: float
    verdict: str | None
    headline: str | None
    folder: str | None
    delta_bytes: int | None
    samples: int
    unseen: str | None

    @property
    def well(self) -> bool:
        """Whether it ran to its end, on the card."""
        return self.code == errors.EXIT_OK and (self.delta_bytes or 0) >= LEAST_BYTES


#: Runs the words of a part with run folders in a place, for so many seconds at most; returns the exit code.
Runner = Callable[[Sequence[str], Path, float], int | None]


def run_part(words: Sequence[str], outputs: Path, limit_s: float) -> int | None:
    """Run ``kvlab run`` as a process; ``None``: it was stopped for its time."""
    command = [sys.executable, "-m", "kvlab", "run", *words, "--outputs", str(outputs)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI_")}
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.terminate()  # the runner then looks after its notebook and the server
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return None


def check(
    folder: Path, *, library: Any = None, runner: Runner = run_part, parts: Sequence[Part] = PARTS
) -> list[Outcome]:
    """Run the parts, each on what is left of the ten minutes.

    Args:
        folder: Where run folders go.
        library: The `pynvml` module, or a recording of it.
        runner: What runs a part.
        parts: Which.
    """
    began, outcomes = time.monotonic(), []
    devices = device_count(library)
    with Monitor([NvmlDevice(index, library) for index in range(devices)]) as monitor:
        for part in parts:
            left = TOTAL_S - (time.monotonic() - began)
            say(f"== {part.name}: {part.shows}")
            outcomes.append(_one(part, folder / part.name, left, monitor, runner))
            say(_line(outcomes[-1]))
    return outcomes


def _one(part: Part, outputs: Path, left_s: float, monitor: Monitor, runner: Runner) -> Outcome:
    start = time.monotonic()
    with monitor.window(part.name) as window:
        code = runner(part.words, outputs, left_s) if left_s > 1 else None
    assert window.end_ns is not None
    used = usage(monitor.drain(), window.start_ns, window.end_ns)
    found = sorted(outputs.glob("*/*/status.json"))
    run = found[-1].parent if found else None
    summary = read_json(run / "summary.json") if run else {}
    return Outcome(
        part.name,
        part.shows,
        code,
        time.monotonic() - start,
        summary.get("verdict"),
        summary.get("headline"),
        None if run is None else str(run),
        max((item.delta_bytes for item in used), default=None),
        max((item.samples for item in used), default=0),
        "; ".join(monitor.reasons().values()) or None,
    )


def _line(outcome: Outcome) -> str:
    ended = "stopped for its time" if outcome.code is None else f"exit code {outcome.code}"
    memory = (
        f"memory unknown ({outcome.unseen})"
        if outcome.delta_bytes is None
        else f"{outcome.delta_bytes / 2**20:,.0f} MiB of the card above its start, {outcome.samples:,} samples"
    )
    word = "ok" if outcome.well else "NOT ok"
    return f"{word}: {outcome.name}: {outcome.verdict or ended}, {outcome.seconds:.0f} s, {memory}"


def main(library: Any = None, runner: Runner = run_part) -> int:
    """Run the check. Returns 0; 1 where a part failed; 2 where no GPU answers, with one line."""
    prepare()
    if device_count(library) == 0:
        say("gpu-check: no NVIDIA GPU answers on this machine; nothing was run", err=True)
        return errors.EXIT_BAD_INPUT
    folder = paths.outputs_dir() / "gpu-check" / f"{datetime.now():%Y-%m-%d_%H%M%S}"
    folder.mkdir(parents=True)
    outcomes = check(folder, library=library, runner=runner)
    content = {
        "gpus": gpus(),
        "seconds": sum(outcome.seconds for outcome in outcomes),
        "parts": [{**asdict(outcome), "well": outcome.well} for outcome in outcomes],
    }
    write_json(folder / "gpu_check.json", content)
    say(f"figures: {folder / 'gpu_check.json'}")
    return errors.EXIT_OK if all(outcome.well for outcome in outcomes) else errors.EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
