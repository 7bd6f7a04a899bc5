"""How the stored runs were made: ``python -m tests.golden.make <experiment> ...`` writes one anew.

On the fake servers and a tiny model, but for kv_budget_transition, whose answers must be right at first and
then break: it is ``kvlab kv all -c params/kv_budget_transition/smoke.yaml --set analysis.resamples=1000 --set
isolation_id=golden`` on the packaged model (ten minutes), and is given here as a finished run folder:
``python -m tests.golden.make <folder>``. Times differ with each making, so a new run has new results.
"""

import json
import os
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.servers.offline import FakeLLM, FakeOffline
from benchmarks.servers.process import FakeServer
from kvlab import api
from kvlab.endpoints import offline
from kvlab.experiments.context_limit_probe import material
from kvlab.experiments.prefix_hit_miss import measure as procedures
from tests.golden import stored, update

TINY = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 65536,
}  # fmt: skip


@contextmanager
def serving(**options: Any) -> Iterator[FakeServer]:
    with FakeServer(**options) as server:
        os.environ |= {"OPENAI_BASE_URL": server.base_url, "OPENAI_API_KEY": "EMPTY", "OPENAI_MODEL": "fake"}
        yield server


def measure(name: str, **params: Any) -> Path:
    run = api.open(name, {"profile": "golden", "isolation_id": "golden", **params})
    run.warm_up()
    for trial in run.pending():
        run.measure(trial)
    run.finish()
    return run.folder


def token_sweep(folder: Path) -> Path:
    """Four lengths; one request is refused once, and its pair is measured again."""
    with serving(base_ms=4, itl_ms=1, ms_per_uncached_token=0.05, faults={"12": "status_429"}):
        return measure(
            "token_sweep", token_targets=[300, 600, 900, 1200], repeats=4, max_tokens=4, manual_sections=60
        )


class PacedLLM(FakeLLM):
    """Takes its time for what is not cached, and for each token."""

    def generate(self, prompt: Any, decoding: Any) -> Any:
        answer = super().generate(prompt, decoding)
        time.sleep(
            5e-5 * (len(answer.prompt_token_ids) - answer.num_cached_tokens) + 1e-3 * decoding["max_tokens"]
        )
        return answer


def prefix_hit_miss(folder: Path) -> Path:
    """Both procedures at two sizes; one generation fails once."""
    procedures.QUESTION_TOKENS_AT_MOST = len(procedures.QUESTION)  # a token a character
    engine = FakeOffline(PacedLLM(fail=[40]))
    offline.open_engine = lambda *_: engine  # type: ignore[assignment]
    return measure(
        "prefix_hit_miss", sizes=[[70, 48], [200, 96]], num_trials=5, max_output_tokens=4, settle_ms=0
    )


def context_limit_probe(folder: Path) -> Path:
    """An endpoint of 1,500 tokens, two precisions of a tiny model in a child, facts that are lost on the way, a replay.

    The fake server knows no fact: an answer counts as right here while the context is short.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    LlamaForCausalLM(LlamaConfig(**TINY)).save_pretrained(folder / "tiny")
    asked: list[int] = []
    original = material.question

    def question(mark: str, needles: int, growth: Any, seed: int, count: int, place: str) -> Any:
        asked.append(count)
        return original(mark, needles, growth, seed, count, place)

    material.question = question
    material.is_answered = lambda text, code: asked[-1] < 12
    with serving(max_model_len=1500, base_ms=1, itl_ms=0.5, ms_per_uncached_token=0.02):
        return measure(
            "context_limit_probe", exchanges=[2, 5, 10, 20, 40], needles=2, quality_steps=2, dtypes=["float32", "bfloat16"],
            in_process_model=str(folder / "tiny"), headroom_mib=24, chunk_tokens=64, in_process_tokens=4096,
            resolution_tokens=64, cut_steps=10, replay_exchanges=24, cold_tokens=[256, 1024], decode_tokens=8,
            memory_interval_ms=250, recover_s=0.5,
        )  # fmt: skip


def batch_benchmark(folder: Path) -> Path:
    """All five strategies at three sizes; some requests are refused once; prices are given."""
    faults = {"40": "status_429", "150": "status_429", "151": "status_429"}
    with serving(
        base_ms=5,
        itl_ms=1,
        ms_per_uncached_token=0.02,
        batch_api=True,
        batch_ms=50,
        faults=faults,
        retry_after_s=0,
    ):
        return measure(
            "batch_benchmark", sizes=[12, 24, 36], prompt_tokens=200, handbook_sections=20, max_tokens=4, concurrency=2,
            trim_interval=3, keep_messages=2, retry_wait_s=0.05, retry_max_wait_s=0.2, batch_poll_s=0.1,
            max_rate_change=0.9, max_held_out_miss=0.9, max_memory_rise=0.9, memory_interval_s=0.1, seed=1,
            price_per_million_prompt_tokens=1.0, price_per_million_cached_tokens=0.25,
            price_per_million_completion_tokens=4.0,
        )  # fmt: skip


def cache_laws(folder: Path) -> Path:
    """All parts, on a server with blocks of 32, of which it keeps 48, each for a second and a half."""
    law = {"grain_tokens": 32}
    with serving(base_ms=1, itl_ms=0.2, block_size=32, law=law, capacity_blocks=48, ttl_s=1.5):
        return measure(
            "cache_laws", parts=["law", "capacity", "lifetime", "sharing", "fidelity"], max_prompt_tokens=1024,
            max_requests=40, capacity_tokens=200_000, lifetime_limit_s=4.0, part_prompt_tokens=128, fidelity_prompts=4,
            fidelity_tokens=4,
        )  # fmt: skip


MADE: dict[str, Callable[[Path], Path]] = {
    "token_sweep": token_sweep, "prefix_hit_miss": prefix_hit_miss, "context_limit_probe": context_limit_probe,
    "batch_benchmark": batch_benchmark, "cache_laws": cache_laws,
}  # fmt: skip


def keep(run: Path, places: dict[str, str]) -> None:
    """Store a finished run: its database as one small file, its manifest, and no place of this machine in either."""
    manifest = json.loads((run / "manifest.json").read_text())
    name = manifest["experiment"]
    places = {**places, manifest["experiment_id"]: f"golden/{name}"}  # it is in every request's id
    target = stored.HERE / name
    target.mkdir(exist_ok=True)
    for source in stored.SOURCES:
        (target / source).unlink(missing_ok=True)
    text = (run / "manifest.json").read_text()
    for place, instead in places.items():
        text = text.replace(place, instead)
    (target / "manifest.json").write_text(text)
    shutil.copy(run / "run.sqlite", target / "run.sqlite")  # with its connections closed, there is no -wal
    with sqlite3.connect(target / "run.sqlite") as sql:
        tables = [row[0] for row in sql.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = [(table, row[1]) for table in tables for row in sql.execute(f"PRAGMA table_info({table})")]
        for (table, column), (place, instead) in (
            (pair, item) for pair in columns for item in places.items()
        ):
            sql.execute(
                f'UPDATE {table} SET "{column}" = replace("{column}", ?, ?) WHERE typeof("{column}") = \'text\' '
                f'AND instr("{column}", ?)',
                (place, instead, place),
            )
        sql.execute("UPDATE sessions SET pid = 1")
        sql.execute("UPDATE prompts SET body_json = '{}'")  # most of the bytes, and no report reads them
    sql.execute("PRAGMA journal_mode = DELETE")
    sql.execute("VACUUM")
    sql.close()
    print(f"{name}: {(target / 'run.sqlite').stat().st_size:,} bytes; {update.update(name)}")


def main() -> None:
    for given in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work)
            (folder / "empty.env").touch()
            os.environ |= {
                "KVLAB_ENV_FILE": str(folder / "empty.env"),
                "KVLAB_OUTPUTS": str(folder / "outputs"),
            }
            run = MADE[given](folder) if given in MADE else Path(given)
            keep(run, {str(folder): "/models", str(Path.home()): "/home/user"})


if __name__ == "__main__":
    main()
