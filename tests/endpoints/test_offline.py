import pytest

from benchmarks.servers.offline import FakeLLM, FakeOffline
from kvlab.endpoints import offline as vllm_offline
from kvlab.endpoints.offline import Call
from kvlab.errors import InputError
from kvlab.serving.in_process import engine_arguments
from kvlab.settings import load_settings
from kvlab.taxonomy import ErrorType


def ask(engine, ids, max_tokens=1, **options):
    return engine.generate(Call("r", "hit/ttft", ids, max_tokens, **options))


def test_one_token_is_first_and_last_and_of_a_longer_answer_only_the_end_is_ours():
    engine = FakeOffline()
    one, many = ask(engine, range(40)), ask(engine, range(40), 5)
    stamps = one.measurement.stamps
    assert stamps.first_token_ns == stamps.last_token_ns == stamps.done_ns
    assert stamps.ttft_ms == stamps.latency_ms > 0
    assert many.measurement.stamps.ttft_ms is None
    assert many.measurement.stamps.latency_ms > 0
    assert many.measurement.generation.usage["completion_tokens"] == 5


def test_the_engines_own_times_are_the_servers_view():
    view = ask(FakeOffline(), range(40)).server
    times = (view.queue_ms, view.prefill_ms, view.decode_ms, view.server_ttft_ms)
    assert times == pytest.approx((1.0, 3.0, 6.0, 5.0))


def test_labels_come_from_what_the_engine_reports():
    engine = FakeOffline()
    assert ask(engine, range(40)).state == "cold"
    again = ask(engine, range(40))
    assert (again.state, again.evidence.usage_tokens, again.evidence.prompt_tokens) == ("hit", 32, 40)
    longer = ask(engine, range(100), prefix_tokens=40)
    assert (longer.state, longer.label.predicted_tokens) == ("hit", 32)
    assert ask(engine, range(40), salt="x").state == "cold"
    assert ask(engine, range(40), reset=engine.reset()).evidence.reset is True


def test_what_was_generated_from_is_known_until_a_reset():
    engine = FakeOffline()
    assert not engine.has_seen(range(40))
    ask(engine, range(40))
    assert engine.has_seen(range(40))
    engine.reset()
    assert not engine.has_seen(range(40))


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("too long\nby far"), "REFUSED_INPUT"), (RuntimeError("dead"), "ENGINE_ERROR")],
)
def test_an_engine_that_raises_gives_a_failure_and_its_row(error, kind):
    class Broken(FakeLLM):
        def generate(self, prompt, decoding):
            raise error

    row = ask(FakeOffline(Broken()), range(40))
    assert not row.ok
    assert row.measurement.failure.error_type is ErrorType[kind]
    assert "\n" not in row.measurement.failure.message
    assert row.measurement.stamps.done_ns >= row.measurement.stamps.sent_ns


def test_the_servers_flags_become_arguments():
    flags = [
        "--enforce-eager",
        "--enable-prompt-tokens-details",
        "--block-size",
        "32",
        "--kv-cache-memory-bytes=1024",
    ]
    assert engine_arguments(flags) == {"enforce_eager": True, "block_size": 32, "kv_cache_memory_bytes": 1024}


def test_hold_checks_the_context_and_starts_nothing(monkeypatch, tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 123}')
    monkeypatch.setenv("KVLAB_MODEL", str(tmp_path))
    told = []
    with vllm_offline.keep_running(load_settings(), told.append):
        assert told == [123]
    assert capsys.readouterr().out == ""


def test_an_endpoint_is_of_no_concern_and_that_is_said(monkeypatch, tmp_path, capsys):
    (tmp_path / "config.json").write_text("{}")
    for key, value in {"KVLAB_MODEL": str(tmp_path), "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
                       "OPENAI_API_KEY": "EMPTY", "OPENAI_MODEL": "m"}.items():  # fmt: skip
        monkeypatch.setenv(key, value)
    with vllm_offline.keep_running(load_settings(), lambda _: None):
        pass
    assert capsys.readouterr().out.count("OPENAI_BASE_URL is not used here") == 1


def test_without_vllm_there_is_one_line(monkeypatch):
    monkeypatch.setattr(vllm_offline.importlib.util, "find_spec", lambda _: None)
    with (
        pytest.raises(InputError, match="make setup"),
        vllm_offline.keep_running(load_settings(), lambda _: None),
    ):
        pass
