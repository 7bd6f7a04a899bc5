"""What is tortured: each experiment, small, against a server or an engine whose truth is known."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.servers.process import FakeServer
from benchmarks.torture.place import KEY_TEXT


@dataclass(frozen=True)
class Scene:
    """An experiment as it is tortured.

    Attributes:
        experiment: Its name.
        params: Its parameters.
        server: Options of the fake server; ``None``: it needs none.
        slowly: What is changed of them for random instants, so that measuring is most of a life.
        prepare: Called once, before anything is opened.
        patched: Called in each process that measures; by name, since a kernel calls it, too.
        by_item: Whether the kernel commits the requests of a trial one by one.
        cold: Of the used requests, those that must be cold, as a condition in SQL over ``r`` (requests), ``t`` (trials).
        warm: Those that must be full hits.
    """

    experiment: str
    params: Mapping[str, Any]
    server: Mapping[str, Any] | None = field(default_factory=lambda: {"base_ms": 3, "itl_ms": 1})
    slowly: Mapping[str, Any] = field(default_factory=lambda: {"base_ms": 60, "itl_ms": 5})
    prepare: Callable[[], None] | None = None
    patched: str | None = None
    by_item: bool = False
    cold: str = "0"
    warm: str = "0"

    @contextmanager
    def served(self) -> Iterator[FakeServer | None]:
        """Start the server, if it needs one."""
        if self.server is None:
            yield None
            return
        with FakeServer(require_key=KEY_TEXT, **self.server) as server:
            yield server


def patch(name: str | None) -> None:
    """Call one of this module's functions by its name."""
    if name is not None:
        globals()[name]()


def open_run(scene: Scene, folder: Path | None) -> Any:
    """Open a run as a notebook does: a new one, or the one in ``folder``."""
    from kvlab import api

    return api.open(scene.experiment, {"profile": "torture", **scene.params}, run_dir=str(folder or ""))


def imitate_the_engine() -> None:
    """Put an engine without a model in the place of vLLM's: its cache is real."""
    from benchmarks.servers.offline import FakeOffline
    from kvlab.endpoints import offline
    from kvlab.experiments.prefix_hit_miss import measure

    offline.open_engine = lambda *_: FakeOffline()  # type: ignore[assignment]
    measure.QUESTION_TOKENS_AT_MOST = len(measure.QUESTION)  # its tokens are characters


#: Of this process and those that it starts: a random model of a few kilobytes.
_MODEL = Path(tempfile.gettempdir()) / f"kvlab-torture-model-{os.getpid()}"


def make_model() -> None:
    """Make a tiny random Llama with a tokenizer of its own: it answers nonsense, the same nonsense each time."""
    if _MODEL.exists():
        return
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.compression.datasets.conftest import train

    torch.set_num_threads(1)  # a thread pool does not survive a fork
    atexit.register(shutil.rmtree, _MODEL, ignore_errors=True)
    tokenizer = train(_MODEL, chat=True).hf
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(_MODEL)


def scenes(*, quick: bool = False) -> dict[str, Scene]:
    """Return them by name."""
    found = [
        Scene(
            "token_sweep",
            {
                "token_targets": [160] if quick else [160, 240],
                "repeats": 2,
                "position_controls": 0 if quick else 2,
                "manual_sections": 30,
                "max_tokens": 3,
                "confidence": 0.9,
            },
            cold="r.arm IN ('cold', 'control_first', 'control_second')",
            warm="r.arm = 'hit'",
        ),
        Scene(
            "prefix_hit_miss",
            {
                "sizes": [[70, 48]],
                "num_trials": 2,
                "warmup_trials": 1,
                "max_output_tokens": 4,
                "settle_ms": 10,
            },
            server=None,
            patched="imitate_the_engine",
            cold="t.trial_id LIKE '%.verified.miss%' AND (r.arm LIKE '%/ttft' OR r.arm LIKE '%/throughput')",
            warm="t.trial_id LIKE '%.verified.hit%' AND (r.arm LIKE '%/ttft' OR r.arm LIKE '%/throughput')",
        ),
        Scene(
            "context_limit_probe",
            {
                "exchanges": [2, 5, 20, 40],
                "needles": 1,
                "quality_steps": 2,
                "dtypes": [],
                "replay_exchanges": 8,
                "cut_steps": 5,
                "cold_tokens": [256, 400],
                "memory_interval_ms": 50,
                "recover_s": 0.5,
            },
            server={"max_model_len": 1500, "base_ms": 1, "itl_ms": 0.2, "ms_per_uncached_token": 0.01},
            slowly={"base_ms": 20},
            by_item=True,
            cold="t.trial_id LIKE 'cold-%'",
        ),
        Scene(
            "batch_benchmark",
            {
                "sizes": [6, 12],
                "prompt_tokens": 200,
                "handbook_sections": 20,
                "max_tokens": 4,
                "concurrency": 4,
                "trim_interval": 3,
                "keep_messages": 2,
                "retry_wait_s": 0.05,
                "retry_max_wait_s": 0.2,
                "batch_poll_s": 0.1,
            },
            server={"base_ms": 20, "itl_ms": 2, "batch_api": True, "batch_ms": 150},
            slowly={"base_ms": 50},
            cold="t.trial_id LIKE 'isolated.%'",
        ),
        Scene(
            "kv_budget_transition",
            {
                "dataset": {"name": "synthetic", "lengths_tokens": [200, 260, 320], "n_per_bin": 2},
                "engine": {"model": str(_MODEL)},
                "kv": {
                    "policy": "snapkv-w8-k3-avg",
                    "budgets": [1.0, 0.5],
                    "max_added_budgets": 1,
                    "controls": ["noise_floor", "random", "no_context"],
                    "timed_per_bin": 0,
                },
                "decoding": {"max_new_tokens": 4},
                "analysis": {"metric": "contains", "resamples": 200},
            },
            server=None,
            prepare=make_model,
        ),
    ]
    return {scene.experiment: scene for scene in found}
