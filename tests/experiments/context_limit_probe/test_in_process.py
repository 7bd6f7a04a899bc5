"""A real child process with a tiny model: it grows, it dies, and the run does not."""

import json
import threading

import psutil
import pytest

from kvlab.experiments.context_limit_probe import ledger
from kvlab.experiments.context_limit_probe.growth import fit_child
from kvlab.experiments.context_limit_probe.outcomes import Outcome
from kvlab.experiments.lab import open_lab
from kvlab.kv_memory import kv_layout
from tests.command import read, until
from tests.experiments.context_limit_probe.test_endpoint import SMALL
from tests.fakes.process import FakeServer

torch = pytest.importorskip("torch", reason="no engine is installed")

CONFIG = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 65536,
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A random model whose cache takes 16 KiB a token in float32, and which loads at once."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    LlamaForCausalLM(LlamaConfig(**CONFIG)).save_pretrained(folder)
    return folder


@pytest.fixture
def probe(tiny, point_at):
    with FakeServer(max_model_len=600, base_ms=1, itl_ms=0.2) as server:
        point_at(server)
        yield {
            **SMALL, "exchanges": [2, 8], "replay_exchanges": 0, "cold_tokens": [], "in_process_model": str(tiny),
            "dtypes": ["float32"], "headroom_mib": 32, "chunk_tokens": 64, "in_process_tokens": 8192,
            "resolution_tokens": 64,
        }  # fmt: skip


def children(probes):
    return [found for found in probes if found.target == "float32"]


def test_the_child_dies_of_its_cap_and_the_run_does_not(probe, tiny):
    lab = open_lab("context_limit_probe", probe)
    for trial in lab.pending():
        lab.measure(trial)
    probes = children(ledger.read(lab.run.database.sql))
    frame, states = lab.frame(), {state for state, _ in lab.run.database.trial_state().values()}
    summary = lab.finish()
    found = ledger.bracket(probes)
    assert found.failed.outcome in (Outcome.OUT_OF_MEMORY, Outcome.CHILD_DIED)
    assert found.failed.tokens - found.low == 64
    failures = [each.tokens for each in probes if not each.held]
    assert len(failures) == len(set(failures)), "no killing size twice"
    assert states == {"done"}
    assert frame[frame["arm"] == "child"]["status"].eq("failed").any()
    line = summary.results["bytes_per_token"]["float32"]
    assert (
        line["theory"]
        == kv_layout(json.loads((tiny / "config.json").read_text())).bytes_per_token("float32")
        == 16_384
    )
    assert 0.9 * line["theory"] <= line["low"] <= line["high"] <= 1.1 * line["theory"]
    assert line["failed_because"] in ("out_of_memory", "child_died")
    assert fit_child(probes, "float32", 256, 0.95).r_squared > 0.99


def test_a_run_that_ends_with_its_child_resumes_below_what_it_was_trying(probe):
    """As when the kernel's out-of-memory killer takes everything: the size is on record, without an outcome."""
    probe = {**probe, "cut_steps": 1, "resolution_tokens": 32}
    lab = open_lab("context_limit_probe", probe)
    for trial in lab.pending():
        if trial.planned["kind"] == "child":
            break
        lab.measure(trial)
    book = ledger.Ledger(lab.run.database, lab.run.session_id)
    for size, grown_mib in ((64, 1), (1024, 20)):
        detail = {"rss_bytes": 1, "grown_bytes": grown_mib * 2**20}
        book.end(book.begin("child-float32", "float32", size, "growth"), Outcome.HELD, **detail)
    book.begin("child-float32", "float32", 1088, "growth")
    folder = lab.folder
    lab.run.close()
    lab.engine.close()
    lab = open_lab("context_limit_probe", {**probe, "run_dir": str(folder)})
    for trial in lab.pending():
        lab.measure(trial)
    probes = children(ledger.read(lab.run.database.sql))
    lab.finish()
    assert [each.tokens for each in probes].count(1088) == 1
    assert [each.outcome for each in probes if each.tokens == 1088] == [Outcome.RUN_ENDED]
    assert max(each.tokens for each in probes) == 1088
    assert ledger.bracket(probes).low >= 1024
    assert probes[-1].trial_id == "child-float32-cut-01", "bisected, in a new child"
    assert probes[-1].tokens == 1056


def kill_the_child_once_it_grows(folder):
    until(lambda: len(read(folder, "SELECT 1 FROM context_probes WHERE outcome = 'held'")) > 3, 60)
    for process in psutil.Process().children():
        if any(word.endswith("context_limit_probe.child") for word in process.cmdline()):
            process.kill()


def test_a_child_that_is_killed_from_outside_is_a_result(probe):
    lab = open_lab("context_limit_probe", {**probe, "headroom_mib": 2048, "cut_steps": 1})
    trial = next(trial for trial in lab.trials if trial.planned["kind"] == "child")
    killer = threading.Thread(target=kill_the_child_once_it_grows, args=(lab.folder,))
    killer.start()
    rows = lab.measure(trial)
    killer.join()
    last = children(ledger.read(lab.run.database.sql))[-1]
    lab.engine.close()
    assert last.outcome is Outcome.CHILD_DIED
    assert "-9" in rows[0].measurement.failure.message
