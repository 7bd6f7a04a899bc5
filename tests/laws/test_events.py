import msgspec
import pytest
import zmq

from kvlab.laws.events import EventReader, Message, Witness, decode

TOKENS = list(range(100, 112))


def stored(hashes, parent, tokens, extra=None):
    event = {
        "type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "token_ids": tokens,
        "block_size": 4, "lora_id": None, "medium": "GPU", "lora_name": None,
    }  # fmt: skip
    return event if extra is None else {**event, "extra_keys": extra}


def removed(hashes, medium="GPU"):
    return {"type": "BlockRemoved", "block_hashes": hashes, "medium": medium}


def message(sequence, *events):
    return Message(sequence, 1.0, events)


def parts(sequence, events):
    return [b"kv", sequence.to_bytes(8, "big"), msgspec.msgpack.encode([1.5, events, 0])]


def test_the_cached_prefix_is_rebuilt():
    witness = Witness()
    witness.read([message(0, stored([1, 2, 3], None, TOKENS))], from_start=True)
    assert witness.hit(TOKENS) == 12
    assert witness.hit([*TOKENS[:9], 7, 7, 7]) == 8
    assert witness.hit([7, *TOKENS]) == 0
    witness.read([message(1, removed([3]))])
    assert witness.hit(TOKENS) == 8
    witness.read([message(2, removed([1]))])
    assert witness.hit(TOKENS) == 0
    assert (len(witness), witness.stored, witness.removed, witness.most_blocks) == (1, 3, 2, 3)
    assert witness.complete
    assert witness.gaps == []


def test_a_chain_goes_on_where_it_was_left():
    witness = Witness()
    witness.read(
        [message(0, stored([1], None, TOKENS[:4])), message(1, stored([2], 1, TOKENS[4:8]))], from_start=True
    )
    assert witness.hit(TOKENS) == 8


def test_a_copy_of_a_block_outlives_the_first():
    witness = Witness()
    witness.read([message(0, stored([1], None, TOKENS[:4]), stored([1], None, TOKENS[:4]))], from_start=True)
    assert len(witness) == 2
    witness.read([message(1, removed([1]))])
    assert witness.hit(TOKENS) == 4
    witness.read([message(2, removed([1]))])
    assert (witness.hit(TOKENS), len(witness), witness.complete) == (0, 0, True)


def test_a_salt_is_another_chain():
    witness = Witness()
    events = stored([1, 2], None, TOKENS[:8], [["pepper"], None])
    witness.read([message(0, events)], from_start=True)
    assert witness.hit(TOKENS) == 0
    assert witness.hit(TOKENS, "pepper") == 8
    assert witness.hit(TOKENS, "salt") == 0


def test_other_tiers_are_not_counted():
    witness = Witness()
    witness.read([message(0, stored([1], None, TOKENS[:4]), removed([1], "CPU"))], from_start=True)
    assert witness.hit(TOKENS) == 4


@pytest.mark.parametrize(("numbers", "gaps"), [((0, 1, 3), [(2, 3)]), ((1, 2), [(0, 1)]), ((0, 0), [(1, 0)])])
def test_a_gap_makes_the_account_incomplete_until_all_is_cleared(numbers, gaps):
    witness = Witness()
    witness.read([message(number) for number in numbers], from_start=True)
    assert witness.gaps == gaps
    assert not witness.complete
    witness.read([message(numbers[-1] + 1, {"type": "AllBlocksCleared"})])
    assert witness.complete


def test_a_block_that_was_never_stored_makes_it_incomplete():
    witness = Witness()
    witness.read([message(0, removed([9]))], from_start=True)
    assert not witness.complete


def test_both_wire_formats_are_read():
    new = decode(parts(5, [stored([1], None, TOKENS[:4])]))
    old = decode(parts(5, [["BlockStored", [1], None, TOKENS[:4], 4, None, "GPU"]]))
    for one in (new, old):
        witness = Witness()
        witness.read([one])
        assert (one.sequence, one.sent_s, witness.hit(TOKENS)) == (5, 1.5, 4)


@pytest.mark.parametrize(
    "wrong",
    [
        [b"kv"],
        [b"kv", b"123", b""],
        [b"kv", bytes(8), b"\xc1"],
        [b"kv", bytes(8), msgspec.msgpack.encode({"a": 1})],
        [b"kv", bytes(8), msgspec.msgpack.encode([1.0, [{"no": "type"}]])],
        [b"kv", bytes(8), msgspec.msgpack.encode([1.0, [7]])],
    ],
)
def test_what_is_no_event_is_refused(wrong):
    with pytest.raises(ValueError, match="event"):
        decode(wrong)


def test_the_reader_binds_and_a_publisher_connects():
    with EventReader() as reader, zmq.Context() as context, context.socket(zmq.PUB) as publisher:
        assert reader.config()["endpoint"].startswith("tcp://127.0.0.1:")
        publisher.setsockopt(zmq.LINGER, 0)
        publisher.connect(reader.endpoint)
        found, number = [], 0
        while not found and number < 200:  # what is sent before both are joined is lost
            publisher.send_multipart(parts(number, [stored([number], None, TOKENS[:4])]))
            number += 1
            found = list(reader.messages(0.02, 1))
        assert found[-1].events[0]["block_size"] == 4
        assert found[-1].arrived_s is not None
