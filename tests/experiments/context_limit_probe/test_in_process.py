"""A real child process with a tiny model: it grows, it dies, and the run does not."""

import io
import json
import os
import threading
from types import SimpleNamespace

import psutil
import pytest

from benchmarks.servers.process import FakeServer
from kvlab import api as kv
from kvlab.errors import KvlabError
from kvlab.experiments.context_limit_probe import ledger
from kvlab.experiments.context_limit_probe.estimate import fit_child, held_bytes
from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome
from kvlab.experiments.context_limit_probe.search import bracket
from kvlab.vram.kv_bytes import kv_layout
from kvlab.vram.mortal_model import Model
from kvlab.vram.mortal_process import Child
from tests.command.tool import read, until
from tests.experiments.context_limit_probe.test_endpoint import SMALL
from tests.experiments.context_limit_probe.test_ledger import probe as make

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
    session = kv.open("context_limit_probe", probe)
    for trial in session.pending():
        session.measure(trial)
    probes = children(ledger.read(session.run.database.sql))
    frame, states = session.requests, {state for state, _ in session.run.database.trial_state().values()}
    summary = session.finish()
    found = bracket(probes)
    assert found.failed.outcome in (ProbeOutcome.OUT_OF_MEMORY, ProbeOutcome.CHILD_DIED)
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


class PaperChild:
    """A child without a model: it holds 16 KiB a token, up to its cap, or does not load."""

    message = ""

    def __init__(self, job):
        self.pid, self.cap = os.getpid(), job["headroom_bytes"]

    def wait_until_ready(self):
        if self.message:
            raise KvlabError(self.message)
        return {"event": "ready", "rss_bytes": 10**8, "device": "cpu", "config": CONFIG}

    def grow(self, tokens):
        grown = 16_384 * tokens
        if grown > self.cap:
            return {"event": "out_of_memory", "message": "refused", "held_tokens": tokens - 64}
        return {"event": "held", "tokens": tokens, "rss_bytes": 10**8 + grown, "cache_bytes": grown}

    def close(self):
        pass


@pytest.fixture
def paper(monkeypatch):
    """Children that need no time: what is tested is what the run does with them."""

    class Paper(PaperChild):
        pass

    monkeypatch.setattr("kvlab.experiments.context_limit_probe.in_process.Child", Paper)
    return Paper


def test_a_child_that_cannot_load_is_a_failed_trial_and_the_run_goes_on(probe, paper):
    paper.message = "the child process could not load the model: OSError: no/such is not a local folder"
    session = kv.open("context_limit_probe", {**probe, "in_process_model": "no/such", "replay_exchanges": 5})
    for trial in session.pending():
        session.measure(trial)
    states = {name: state for name, (state, _) in session.run.database.trial_state().items()}
    summary = session.finish()
    assert states["child-float32"] == "failed"
    assert {states[name] for name in states if name.startswith("replay")} == {"done"}
    assert summary.verdict == "INVALID"
    assert any("no/such is not a local folder" in line for line in summary.limitations)


def test_on_a_card_it_is_the_allocator_that_is_read_and_capped():
    model, capped = Model.__new__(Model), []
    cuda = SimpleNamespace(
        synchronize=lambda: None,
        empty_cache=lambda: None,
        memory_allocated=lambda: 500,
        memory_reserved=lambda: 600,
        mem_get_info=lambda: (9_000, 10_000),
        set_per_process_memory_fraction=capped.append,
    )
    model.device, model.torch = "cuda", SimpleNamespace(cuda=cuda)
    found = model.memory()
    assert (found["held_bytes"], found["reserved_bytes"]) == (500, 600)
    model.cap(400)
    assert capped == [0.1]
    assert held_bytes(make(100, **found)) == 500, "not its resident memory"


def test_of_a_traceback_and_its_advice_the_line_that_names_the_error_is_told():
    child = Child.__new__(Child)
    child._errors = io.StringIO(
        "Traceback:\n  File x\nOSError: no/such is no model\nIf it is private, log in.\n"
    )
    assert child._last_words() == "OSError: no/such is no model"
    child._errors = io.StringIO("\nKilled\n")
    assert child._last_words() == "Killed"


def test_a_run_that_ends_with_its_child_resumes_below_what_it_was_trying(probe, paper):
    """As when the kernel's out-of-memory killer takes everything: the size is on record, without an outcome."""
    probe = {**probe, "cut_steps": 1, "resolution_tokens": 32}
    session = kv.open("context_limit_probe", probe)
    for trial in session.pending():
        if trial.planned["kind"] == "child":
            break
        session.measure(trial)
    book = ledger.Ledger(session.run.database, session.run.session_id)
    for size, grown_mib in ((64, 1), (1024, 20)):
        detail = {"rss_bytes": 1, "grown_bytes": grown_mib * 2**20}
        book.end(book.begin("child-float32", "float32", size, "growth"), ProbeOutcome.HELD, **detail)
    book.begin("child-float32", "float32", 1088, "growth")
    folder = session.folder
    session.close()
    session = kv.open("context_limit_probe", {**probe, "run_dir": str(folder)})
    for trial in session.pending():
        session.measure(trial)
    probes = children(ledger.read(session.run.database.sql))
    session.finish()
    assert [each.tokens for each in probes].count(1088) == 1
    assert [each.outcome for each in probes if each.tokens == 1088] == [ProbeOutcome.RUN_ENDED]
    assert max(each.tokens for each in probes) == 1088
    assert bracket(probes).low >= 1024
    assert probes[-1].trial_id == "child-float32-cut-01", "bisected, in a new child"
    assert probes[-1].tokens == 1056


def kill_the_child_once_it_grows(folder):
    until(lambda: len(read(folder, "SELECT 1 FROM context_probes WHERE outcome = 'held'")) > 3, 60)
    for process in psutil.Process().children():
        if any(word.endswith("vram.mortal_model") for word in process.cmdline()):
            process.kill()


def test_a_child_that_is_killed_from_outside_is_a_result(probe):
    session = kv.open("context_limit_probe", {**probe, "headroom_mib": 2048, "cut_steps": 1})
    trial = next(trial for trial in session.trials if trial.planned["kind"] == "child")
    killer = threading.Thread(target=kill_the_child_once_it_grows, args=(session.folder,))
    killer.start()
    rows = session.measure(trial)
    killer.join()
    last = children(ledger.read(session.run.database.sql))[-1]
    session.engine.close()
    assert last.outcome is ProbeOutcome.CHILD_DIED
    assert "-9" in rows[0].measurement.failure.message
