"""What a server itself says of its cache, beside its answers: llama.cpp's log, vLLM's KV events.

Labels are made of the answers alone. Here each stored request is held against the server's own account of it.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from kvlab.laws.events import EventReader, Message, Witness
from kvlab.laws.law import CacheLaw

_NEW = re.compile(r"task (\d+) \| new prompt, .*task\.n_tokens = (\d+)")
_CACHED = re.compile(r"task (\d+) \| cached n_tokens = (\d+),")
_ROWS = """
SELECT r.request_id, p.prompt_tokens, p.cached_tokens, p.cache_state, b.body_json,
       (m.sent_ns + s.anchor_unix_ns - s.anchor_perf_ns) / 1e9 AS sent_s,
       (m.done_ns + s.anchor_unix_ns - s.anchor_perf_ns) / 1e9 AS done_s
FROM requests r JOIN responses p USING (request_id) JOIN telemetry m USING (request_id)
JOIN sessions s USING (session_id) JOIN prompts b USING (prompt_sha256) ORDER BY sent_s
"""


@dataclass(frozen=True)
class Agreement:
    """How many answered requests say what the server's own account says of them.

    Attributes:
        equal: Requests whose prompt and cached tokens are those of the account.
        of: Requests that were compared.
        off: The first that differ, for a person to look at.
        why: What could not be compared, and why.
    """

    equal: int = 0
    of: int = 0
    off: tuple[str, ...] = ()
    why: str = ""

    def __str__(self) -> str:
        return f"{self.equal} of {self.of}" if self.of else f"– ({self.why})"


def answered(folder: Path) -> list[dict[str, Any]]:
    """The answered requests of a run, in the order of sending."""
    with closing(sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True)) as sql:
        sql.row_factory = sqlite3.Row
        return [dict(row) for row in sql.execute(_ROWS)]


def overlap(rows: Iterable[dict[str, Any]]) -> bool:
    """Whether a request was sent before the one before it was done."""
    last = 0.0
    for row in rows:
        if row["sent_s"] < last:
            return True
        last = max(last, row["done_s"] or row["sent_s"])
    return False


def prompts_of(log: str) -> list[tuple[int, int]]:
    """Length and reused tokens of each prompt that llama.cpp's log tells of, in its order.

    A long prompt is read in several batches, each of which says what is there by then: the first counts.
    """
    length: dict[str, int] = {}
    reused: dict[str, int] = {}
    for line in log.splitlines():
        if found := _NEW.search(line):
            length[found[1]] = int(found[2])
        elif (found := _CACHED.search(line)) and found[1] in length:
            reused.setdefault(found[1], int(found[2]))
    return [(length[task], tokens) for task, tokens in reused.items()]


@dataclass
class Log:
    """llama.cpp's log at level 4.

    Attributes:
        path: The file.
        read_to: Where the next run's lines begin, in bytes.
    """

    path: Path
    read_to: int = 0

    def begin(self) -> None:
        """What follows is a run's."""
        self.read_to = self.path.stat().st_size

    def compare(self, folder: Path, law: CacheLaw | None) -> Agreement:
        """Hold a run's answers against the last prompts in the log: a run's first requests are its probes.

        One at a time, they stand in one order; where they overlap, each must be there as often.
        """
        with self.path.open("rb") as file:
            file.seek(self.read_to)
            said = prompts_of(file.read().decode(errors="replace"))
        rows = answered(folder)
        if len(said) < len(rows):
            return Agreement(0, len(rows), (f"the log tells of {len(said)} prompts",))
        found = [(row["prompt_tokens"], row["cached_tokens"]) for row in rows]
        if overlap(rows):
            common = Counter(found) & Counter(said)
            return Agreement(common.total(), len(rows), tuple(map(str, Counter(found) - common))[:5])
        pairs = list(zip(rows, found, said[len(said) - len(rows) :], strict=True))
        off = [f"{row['request_id']}: {mine}, log {its}" for row, mine, its in pairs if mine != its]
        return Agreement(len(rows) - len(off), len(rows), tuple(off[:5]))


@dataclass
class Events:
    """vLLM's KV events: before each request, what of its prompt is in the cache.

    Attributes:
        reader: Gets them.
        base_url: Of the server, for the tokens of a chat.
        key: Of the server.
        model: Its name.
    """

    reader: EventReader
    base_url: str
    key: str
    model: str

    def __post_init__(self) -> None:
        self._messages: list[Message] = []

    def begin(self) -> None:
        """Events are kept from the server's start: what was stored before a run counts, too."""
        self._messages += self.reader.messages(0.05)

    def compare(self, folder: Path, law: CacheLaw | None) -> Agreement:
        """Predict each answer from the law and from what the events say was cached when it was sent."""
        self.begin()
        if law is None:
            return Agreement(why="no law to turn cached blocks into tokens")
        rows = answered(folder)
        if overlap(rows):
            return Agreement(why="requests overlap, so what was cached at each is not known")
        witness, left, off = Witness(), list(self._messages), []
        for row in rows:
            due = [message for message in left if message.sent_s < row["sent_s"]]
            left = left[len(due) :]
            witness.read(due)
            tokens = self._tokens(row["body_json"])
            salts = {one.extra for one in witness._blocks.values() if one.parent is None} | {None}
            held = max(witness.hit(tokens, _bare(salt)) for salt in salts)
            expected = law.predict(len(tokens), held)
            if (len(tokens), expected) != (row["prompt_tokens"], row["cached_tokens"]):
                mine = (row["prompt_tokens"], row["cached_tokens"])
                off.append(f"{row['request_id']}: {mine}, events {(len(tokens), expected)}")
        return Agreement(len(rows) - len(off), len(rows), tuple(off[:5]), f"gaps: {len(witness.gaps)}")

    def _tokens(self, body: str) -> list[int]:
        import json

        prompt = json.loads(body)
        if isinstance(prompt.get("prompt"), list):
            return list(prompt["prompt"])
        answer = httpx.post(
            self.base_url.removesuffix("/v1") + "/tokenize",
            json={"model": self.model, **prompt},
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=60.0,
            trust_env=False,
        )
        tokens: list[int] = answer.raise_for_status().json()["tokens"]
        return tokens


def _bare(extra: Any) -> Any:
    return extra[1] if isinstance(extra, tuple) and extra[0] == "salt" else extra
