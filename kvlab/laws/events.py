"""vLLM's KV events: the engine's own account of every block that it stored and removed.

It is a witness, never the source: laws, capacities and evictions that were inferred from outside are held
against it. What a block holds is told by its token ids and its parent, so the set of cached prefixes can be
rebuilt at any moment, and with it what a prompt could hit.

Wire format (``vllm/distributed/kv_events.py``): ZMQ multipart ``[topic, sequence (8 bytes, big endian),
msgpack]``; the payload is an array ``[timestamp, events, rank]``, an event a map with its ``type`` (older
versions: an array that begins with it). An endpoint without ``*`` makes vLLM connect, so the reader binds.
What is sent before both are joined is lost, and so is what overflows a queue: sequence numbers count up by
one, and a gap makes the account incomplete from there on (until all blocks are cleared).
"""

import contextlib
import time
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

#: Positions of the fields where an event is an array.
_STORED = ("block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium")
#: Bytes of one message at most: about 100,000 blocks.
MOST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Message:
    """One message from the engine.

    Attributes:
        sequence: Counts up by one.
        sent_s: The engine's clock (Unix time).
        events: Each a map with ``type`` and the event's fields.
        arrived_s: `time.monotonic` when it was read; ``None``: not read here.
    """

    sequence: int
    sent_s: float
    events: tuple[Mapping[str, Any], ...]
    arrived_s: float | None = None


def decode(parts: Sequence[bytes], arrived_s: float | None = None) -> Message:
    """Return a message from its parts on the wire.

    Raises:
        ValueError: It is no such message.
    """
    import msgspec

    if len(parts) != 3 or len(parts[1]) != 8 or len(parts[2]) > MOST_BYTES:
        raise ValueError(
            f"a KV event message has a topic, 8 bytes and a payload, not {[len(p) for p in parts]} bytes"
        )
    try:
        payload = msgspec.msgpack.decode(parts[2])
    except msgspec.DecodeError as error:
        raise ValueError(f"a KV event message is no msgpack: {error}") from None
    if not isinstance(payload, list) or len(payload) < 2 or not isinstance(payload[1], list):
        raise ValueError("a KV event message holds a time and a list of events")
    sent_s = float(payload[0]) if isinstance(payload[0], int | float) else 0.0
    sequence = int.from_bytes(parts[1], "big", signed=True)
    return Message(sequence, sent_s, tuple(_event(one) for one in payload[1]), arrived_s)


def _event(raw: Any) -> Mapping[str, Any]:  # noqa: ANN401 - msgpack
    if isinstance(raw, dict) and isinstance(raw.get("type"), str):
        return raw
    if isinstance(raw, list) and raw and isinstance(raw[0], str):
        names = _STORED if raw[0] == "BlockStored" else ("block_hashes", "medium")
        return {"type": raw[0], **dict(zip(names, raw[1:], strict=False))}
    raise ValueError("an event has no type")


@dataclass(frozen=True)
class _Block:
    parent: Hashable
    tokens: tuple[int, ...]
    extra: Hashable


@dataclass
class Witness:
    """The cache as the events tell it.

    Attributes:
        stored: Blocks stored so far, all in all.
        removed: Blocks removed so far.
        most_blocks: The most that were cached at one time.
        gaps: ``(expected, got)`` of each gap in the sequence numbers.
        complete: Whether every event since the last empty cache was seen.
    """

    stored: int = 0
    removed: int = 0
    most_blocks: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    complete: bool = True
    _blocks: dict[Hashable, _Block] = field(default_factory=dict)
    _copies: dict[Hashable, int] = field(default_factory=dict)
    _children: dict[tuple[Hashable, tuple[int, ...], Hashable], Hashable] = field(default_factory=dict)
    _sizes: set[int] = field(default_factory=set)
    _taken: int = 0
    _next: int | None = None

    def __len__(self) -> int:
        """Return the blocks that are taken by cached prefixes, copies included."""
        return self._taken

    def read(self, messages: Iterable[Message], *, from_start: bool = False) -> None:
        """Take messages in, in order.

        Args:
            messages: Of one publisher.
            from_start: The first of all is expected to have number 0; otherwise what came before it is
                not known, and the account is incomplete.
        """
        for message in messages:
            expected = (0 if from_start else message.sequence) if self._next is None else self._next
            if self._next is None and not from_start and message.sequence > 0:
                self.complete = False
            if message.sequence != expected:
                self.gaps.append((expected, message.sequence))
                self.complete = False
            self._next = message.sequence + 1
            for event in message.events:
                self._apply(event)

    def hit(self, tokens: Sequence[int], extra: Hashable = None) -> int:
        """Return how many leading tokens of a prompt are cached, in whole blocks.

        Args:
            tokens: The prompt's token ids.
            extra: The salt of its first block; ``None``: none.
        """
        parent: Hashable = None
        found = 0
        sizes = sorted(self._sizes)
        while True:
            key = ("salt", extra) if found == 0 and extra is not None else None
            for size in sizes:
                child = self._children.get((parent, tuple(tokens[found : found + size]), key))
                if child is not None and found + size <= len(tokens):
                    parent, found = child, found + size
                    break
            else:
                return found

    def _apply(self, event: Mapping[str, Any]) -> None:
        kind = event["type"]
        if kind == "AllBlocksCleared":
            self._blocks.clear()
            self._copies.clear()
            self._taken = 0
            self._children.clear()
            self.complete = True
        elif kind == "BlockRemoved" and _on_device(event):
            for number in event["block_hashes"]:
                self._remove(number)
        elif kind == "BlockStored" and _on_device(event):
            self._store(event)
        self.most_blocks = max(self.most_blocks, len(self))

    def _store(self, event: Mapping[str, Any]) -> None:
        size, parent = int(event["block_size"]), event.get("parent_block_hash")
        extras = event.get("extra_keys")
        for place, number in enumerate(event["block_hashes"]):
            tokens = tuple(event["token_ids"][place * size : (place + 1) * size])
            extra = _salt(extras[place]) if extras else None
            # Two blocks may hold the same: a prompt that was computed to its end though all was cached.
            self._copies[number] = self._copies.get(number, 0) + 1
            self._blocks[number] = _Block(parent, tokens, extra)
            self._children[parent, tokens, extra] = number
            self._sizes.add(size)
            self.stored += 1
            self._taken += 1
            parent = number

    def _remove(self, number: Hashable) -> None:
        block = self._blocks.get(number)
        if block is None:
            self.complete = False  # its storing was not seen
            return
        self.removed += 1
        self._taken -= 1
        self._copies[number] -= 1
        if self._copies[number]:
            return
        del self._blocks[number], self._copies[number]
        key = (block.parent, block.tokens, block.extra)
        if self._children.get(key) == number:
            del self._children[key]


def _on_device(event: Mapping[str, Any]) -> bool:
    return event.get("medium") in (None, "GPU")


def _salt(keys: Any) -> Hashable:  # noqa: ANN401 - msgpack
    """Return a block's extra keys: its salt alone where that is all it has."""
    if not keys:
        return None
    texts = tuple(str(key) for key in keys)
    return ("salt", texts[0]) if len(texts) == 1 else ("keys", texts)


class EventReader:
    """Binds a loopback endpoint, and reads what vLLM publishes there.

    Args:
        endpoint: ``tcp://127.0.0.1:PORT``, or port 0 for a free one.
        topic: As in vLLM's ``--kv-events-config``.
        queue: Messages that may wait to be read.
        connect: Whether vLLM has the endpoint (``ipc://``), and this joins it.

    Attributes:
        endpoint: As bound; this is what vLLM is to be told.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:0",
        topic: str = "kv",
        queue: int = 100_000,
        *,
        connect: bool = False,
    ) -> None:
        import zmq

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, queue)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MOST_BYTES)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt_string(zmq.SUBSCRIBE, topic)
        if connect:
            self._socket.connect(endpoint)
        else:
            self._socket.bind(endpoint)
        self.topic = topic
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def config(self) -> dict[str, Any]:
        """Return vLLM's ``kv_events_config`` for this reader."""
        return {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": self.endpoint,
            "topic": self.topic,
        }

    def messages(self, quiet_s: float = 0.2, limit_s: float = 10.0) -> Iterator[Message]:
        """Yield what has arrived, until nothing came for ``quiet_s``, and no longer than ``limit_s``.

        Raises:
            ValueError: Something else was published there.
        """
        until = time.monotonic() + limit_s
        while time.monotonic() < until and self._socket.poll(round(quiet_s * 1000)):
            yield decode(self._socket.recv_multipart(), time.monotonic())

    def close(self) -> None:
        """Free the endpoint."""
        with contextlib.suppress(Exception):
            self._socket.close()
            self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
