"""The engine's own events beside its answers: read within bounds, held against the law, and off where they can't be."""

import dataclasses

import msgspec
import pytest
import zmq

from benchmarks.servers.process import FakeServer
from kvlab import api
from kvlab.experiments.cache_laws import witness
from kvlab.experiments.cache_laws.witness import Watch
from kvlab.laws.causes import common_prefix
from kvlab.laws.events import EventReader
from kvlab.laws.law import CacheLaw

TOKENS = list(range(64))


@pytest.fixture
def engine(tmp_path):
    """A publisher that has the endpoint, as vLLM has that of a socket, and a watch that joins it."""
    place = f"ipc://{tmp_path}/ev"
    with zmq.Context() as context, context.socket(zmq.XPUB) as publisher:
        publisher.setsockopt(zmq.LINGER, 0)
        publisher.bind(place)
        watch = Watch(EventReader(place, connect=True))
        assert publisher.poll(5000)  # it has subscribed
        publisher.recv()

        def publish(number, events, payload=None):
            packed = msgspec.msgpack.encode([1.0, events]) if payload is None else payload
            publisher.send_multipart([b"kv", number.to_bytes(8, "big"), packed])

        yield watch, publish
        watch.stop("done")


def stored(*hashes, start=0, parent=None):
    tokens = TOKENS[start : start + 16 * len(hashes)]
    return {
        "type": "BlockStored",
        "block_hashes": list(hashes),
        "parent_block_hash": parent,
        "token_ids": tokens,
        "block_size": 16,
    }


def test_what_the_engine_holds_is_told_before_each_prompt(engine):
    watch, publish = engine
    prompt = {"prompt": TOKENS}
    assert watch.held(prompt, None) == 0
    publish(5, [stored(1, 2)])
    assert watch.held(prompt, None) == 32
    assert watch.held(prompt, "ab") == 0  # under a salt it holds nothing
    assert watch.held({"messages": []}, None) is None  # its tokens are not known
    publish(6, [{"type": "BlockRemoved", "block_hashes": [2]}])
    assert watch.held(prompt, None) == 16
    account = watch.account()
    assert (account["stored"], account["removed"], account["most_blocks"], account["why_not"]) == (
        2,
        1,
        2,
        None,
    )


def test_after_a_gap_nothing_is_said(engine):
    watch, publish = engine
    publish(5, [stored(1)])
    publish(7, [stored(2, start=16, parent=1)])
    assert watch.held({"prompt": TOKENS}, None) is None
    assert watch.account()["gaps"] == 1


@pytest.mark.parametrize(
    "payload",
    [b"\xc1", msgspec.msgpack.encode([1.0, [{"type": "BlockStored"}]]), msgspec.msgpack.encode([1])],
)
def test_what_is_no_event_ends_the_account_and_not_the_run(engine, payload):
    watch, publish = engine
    publish(5, [], payload)
    assert watch.held({"prompt": TOKENS}, None) is None
    assert "something else" in watch.account()["why_not"]
    assert watch.held({"prompt": TOKENS}, None) is None


class Mirror(Watch):
    """Says what a cache holds that keeps all, or a block more than that."""

    seen: list
    off = 0

    def held(self, prompt, salt):
        tokens = prompt["prompt"]
        best = max((common_prefix(one, tokens) // 16 * 16 for one in self.seen), default=0)
        self.seen.append(tokens)
        return best + self.off


@pytest.mark.parametrize("off", [0, 16])
def test_a_report_holds_every_answer_against_the_events(point_at, monkeypatch, off):
    mirror = Mirror()
    mirror.seen, mirror.off = [], off
    monkeypatch.setattr(witness, "_joined", lambda session: mirror)
    with FakeServer(base_ms=0, itl_ms=0, output_tokens=1, law=dataclasses.asdict(CacheLaw(16))) as server:
        point_at(server)
        run = api.open("cache_laws", {"profile": "default", "max_prompt_tokens": 512})
        for trial in run.pending():
            run.measure(trial)
        summary = run.findings().summary("cache_laws", "test")
        run.close()
    check = next(check for check in summary.checks if check.name == "events_agree")
    assert (summary.verdict, check.passed, check.role) == ("PASS", off == 0, "note")


def test_a_server_that_publishes_none_is_not_held_against_any(point_at):
    with FakeServer(base_ms=0, itl_ms=0, output_tokens=1) as server:
        point_at(server)
        run = api.open("cache_laws", {"profile": "default", "max_prompt_tokens": 512})
        assert "publishes no KV events" in run.state.watch.why_not
        names = [check.name for check in run.findings().checks]
        run.close()
    assert "events_agree" not in names
