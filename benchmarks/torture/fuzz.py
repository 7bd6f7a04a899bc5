"""Generated input for everything that reads what comes from outside; hypothesis draws, seeded and bounded.

An input may be refused in words (`KvlabError`, `WireError`); any other exception is a traceback, and what takes
longer than its time is a hang. Nothing stops at the first: each kind of failure is counted, with its input.
"""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from benchmarks.torture.counts import Counts
from benchmarks.torture.place import HangError, within
from kvlab.errors import KvlabError

#: What refuses in words.
WORDED: tuple[type[BaseException], ...] = (KvlabError,)


@dataclass(frozen=True)
class Target:
    """Something that reads.

    Attributes:
        name: What is fuzzed.
        inputs: What it is given.
        read: Reads it; may refuse in words.
        examples: How many inputs.
        limit_s: How long one may take.
        worded: Further exceptions that are a refusal in words.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], object]
    examples: int = 1000
    limit_s: float = 5.0
    worded: tuple[type[BaseException], ...] = ()


def attack(target: Target, number: int, *, share: float = 1.0) -> Counts:
    """Try so many inputs. Returns the counts."""
    counts = Counts(f"fuzz: {target.name}")
    began = time.monotonic()
    known: set[tuple[str, str]] = set()

    @seed(number)
    @settings(
        max_examples=max(3, int(target.examples * share)),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @given(target.inputs)
    def one(value: Any) -> None:
        counts.tried += 1
        try:
            with within(target.limit_s):
                target.read(value)
        except (*WORDED, *target.worded) as refused:
            text = str(refused)
            counts.see(refused=1)
            counts.harm(
                "untrue", f"a refusal of {text.count(chr(10)) + 1} lines: {text[:200]!r}", "\n" in text
            )
        except HangError:
            counts.harm("hangs", f"{value!r:.600}")
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            key = (type(error).__name__, f"{where.filename}:{where.lineno}")
            ours = [f for f in traceback.extract_tb(error.__traceback__) if "/kvlab/" in f.filename]
            last = (
                f"{ours[-1].filename.rpartition('/kvlab/')[2]}:{ours[-1].lineno}" if ours else "not in kvlab"
            )
            counts.tracebacks += 1
            if key not in known:
                known.add(key)
                counts.notes.append(
                    f"tracebacks ({target.name}): {key[0]}: {str(error)[:200]!r} at {last} ({key[1]}), input {value!r:.700}"
                )

    one()
    counts.seconds = time.monotonic() - began
    return counts


def anything(*, most: int = 6) -> st.SearchStrategy[Any]:
    """JSON of any shape, with the values that break assumptions."""
    odd = st.sampled_from([
        None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, -(10**30), 0.1, -0.0, 1e308, 1e-300, "", " ", "0", "-1", "NaN",
        "1e999", "\x00", "\x1b[31m", "²", "½", "٣", "\ud800", "null", "true", "a\nb", "[bold]x[/bold]", "=1+1", "x" * 3000,
        [], {}, [[]], [None], {"": None}, [{}], {"id": {}}, {"message": {}}, {"error": None},
    ])  # fmt: skip
    leaf = odd | st.integers() | st.floats(allow_nan=True) | st.text(max_size=12)
    return st.recursive(
        leaf,
        lambda inner: (
            st.lists(inner, max_size=most) | st.dictionaries(st.text(max_size=8), inner, max_size=most)
        ),
        max_leaves=12,
    )


@st.composite
def damaged(draw: st.DrawFn, good: st.SearchStrategy[bytes]) -> bytes:
    """Bytes that were right, and are not any more: bits flipped, parts cut, repeated, moved, or put in."""
    data = bytearray(draw(good))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        size = draw(st.integers(0, 40))
        what = draw(st.sampled_from(("flip", "cut", "repeat", "insert", "drop", "token")))
        if what == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[at:]
        elif what == "repeat":
            data[at:at] = data[at : at + size] * draw(st.integers(1, 5))
        elif what == "insert":
            data[at:at] = draw(st.binary(max_size=size))
        elif what == "drop":
            del data[at : at + size]
        else:
            data[at:at] = draw(st.sampled_from(_TOKENS))
    return bytes(data)


_TOKENS = [
    b"\r\n", b"\n\n", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"null", b"NaN", b"1e999", b"-1", b"{", b"[", b'"', b"\\ud800",
    b"data: ", b"event: error\n", b"[DONE]", b"9" * 400, b"[" * 3000, b'{"a":' * 1500, b"\xed\xa0\x80", b"\xc2\xb2", b": ",
    b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"&a [*a]", b"${HOME}",
    b"!!python/object:os.system", b"2026-99-99", b"{{", b"0x", b"1_000", b".inf", b"# ", b"\t",
]  # fmt: skip


@st.composite
def swapped(draw: st.DrawFn, good: Any, values: st.SearchStrategy[Any]) -> Any:
    """JSON that was right, with one to three of its values, at any depth, in the place of which stands another."""
    found = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(found))
        if not places:
            return copy.deepcopy(draw(values))
        inside, key = draw(st.sampled_from(places))
        if draw(st.booleans()) or not isinstance(inside, dict):
            inside[key] = copy.deepcopy(draw(values))  # an odd one is drawn again, as it was
        else:
            del inside[key]
    return found


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    found = []
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], dict | list):
            found += _places(value[key])
    return found
