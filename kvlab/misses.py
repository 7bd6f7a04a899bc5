"""Why was it not a hit? A named cause for each request of a run of which more could have been cached.

A hit is expected of a request whose arm is meant as one, and of every request with an earlier one in the run
that shares so much that the law of this server's cache predicts more than was read. The causes are those of
`kvlab.laws.causes`; what the run does not know (how much the cache holds, how long, who else uses it) stays
open there, and the cause is then "unknown".

Prompts of token ids are compared token by token. Of a text, the server's count is known and its tokens are
not, so places in it are estimated from characters, and a cause that hangs on the estimate is "unknown", too.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kvlab.errors import InputError
from kvlab.findings import Findings, Section, Table
from kvlab.laws.causes import Cause, Knowledge, MissCause, Request, common_prefix, explain
from kvlab.laws.law import CacheLaw
from kvlab.prompts import batch

if TYPE_CHECKING:
    from kvlab.runs.data import RunData

TITLE = "Why was it not a hit?"
#: Requests whose arm is meant as a hit, whatever was sent before.
_HITS = frozenset({"hit", "hit/ttft", "hit/throughput"})
#: A report looks at so many requests, so many characters of prompts, and shows so many rows.
_MOST_REQUESTS, _MOST_CHARACTERS, _MOST_ROWS = 5_000, 50_000_000, 40
#: And explains so many, each from so many earlier ones.
_MOST_CAUSES, _MOST_EARLIER = 200, 400
#: Estimated places are off by no more than this share, as a rule.
_OFF = 0.15
#: Characters between the places at which prompts are looked up by what they begin with.
_STRIDE = 128

_QUERY = """
SELECT r.request_id, r.arm, r.measured, r.prompt_sha256, r.decoding_json, p.prompt_tokens, p.cache_state,
       coalesce(p.cached_tokens, json_extract(p.evidence_json, '$.usage_tokens')) AS cached_tokens,
       f.request_id IS NOT NULL AS failed, (m.sent_ns + s.anchor_unix_ns - s.anchor_perf_ns) / 1e9 AS sent_s,
       (coalesce(m.done_ns, m.sent_ns) - m.sent_ns) / 1e9 AS took_s
FROM requests r JOIN telemetry m USING (request_id) JOIN sessions s USING (session_id)
LEFT JOIN responses p USING (request_id) LEFT JOIN failures f USING (request_id)
ORDER BY sent_s LIMIT ?"""


@dataclass(frozen=True)
class Sent:
    """A request of a run, with its tokens or what stands for them.

    Attributes:
        request: As `kvlab.laws.causes` takes it.
        arm: What it was meant to be.
        state: Its label.
        measured: Whether it is measured, or a warm-up or a check.
        done_s: When its answer ended, on the clock of ``request.sent_s``.
        exact: Whether its tokens are known; else they are estimated from characters.
    """

    request: Request
    arm: str
    state: str | None
    measured: bool
    done_s: float
    exact: bool


def sent(data: "RunData") -> list[Sent]:
    """Return the requests of a run in the order of sending, as far as their prompts are stored and the limits go."""
    rows = data.sql.execute(_QUERY, (_MOST_REQUESTS,)).fetchall()
    bodies: dict[str, Mapping[str, Any]] = {}

    def body(name: str) -> Mapping[str, Any]:
        if name not in bodies:
            found = data.sql.execute(
                "SELECT body_json FROM prompts WHERE prompt_sha256 = ?", (name,)
            ).fetchone()
            bodies[name] = {} if found is None else json.loads(found[0])
        return bodies[name]

    made: list[Sent] = []
    characters = 0
    texts: list[tuple[Any, Sequence[int] | str]] = []
    for row in rows:
        content = _content(body(row["prompt_sha256"]), body)
        if content is None:
            continue
        characters += len(content)
        if characters > _MOST_CHARACTERS:
            break
        texts.append((row, content))
    width = _characters_a_token(
        [(row["prompt_tokens"], text) for row, text in texts if isinstance(text, str)]
    )
    for row, content in texts:
        exact = not isinstance(content, str)
        tokens = content if not isinstance(content, str) else _places(content, width, row["prompt_tokens"])
        salt = json.loads(row["decoding_json"]).get("cache_salt")
        request = Request(
            row["request_id"], tokens, row["sent_s"], row["cached_tokens"], salt, failed=bool(row["failed"])
        )
        done = row["sent_s"] + row["took_s"]
        made.append(Sent(request, row["arm"], row["cache_state"], bool(row["measured"]), done, exact))
    return made


def _content(body: Mapping[str, Any], look_up: Any) -> Sequence[int] | str | None:  # noqa: ANN401 - see below
    """Return a prompt's token ids, or else its text; ``None``: it is not stored."""
    try:
        if "base_sha256" in body:
            body = {"messages": batch.restore(body, look_up)}
        prompt = body.get("prompt_token_ids", body.get("prompt"))
        if isinstance(prompt, list) and all(type(token) is int for token in prompt):
            return tuple(prompt)
        if isinstance(prompt, str):
            return prompt
        messages = body.get("messages")
        return None if not messages else "".join(f"<{m['role']}>{m['content']}" for m in messages)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _characters_a_token(texts: list[tuple[int | None, str]]) -> float:
    ratios = sorted(len(text) / tokens for tokens, text in texts if tokens)
    return ratios[len(ratios) // 2] if ratios else 4.0


def _places(text: str, width: float, tokens: int | None) -> tuple[int, ...]:
    """Return one number for each token that a text has by the server's count; equal starts give equal numbers."""
    count = max(1, tokens if tokens is not None else round(len(text) / width))
    cuts = [round(i * width) for i in range(count)] + [len(text)]
    whole = hash(text)
    return tuple(
        hash(text[a:b]) if a < b <= len(text) else hash((whole, i))
        for i, (a, b) in enumerate(itertools.pairwise(cuts))
    )


# Causes -----------------------------------------------------------------------------------------------


def knowledge(data: "RunData", found: Findings | None = None) -> Knowledge:
    """Return what a run knows of its server: its law, and what a run of cache laws has measured beside it."""
    identity = data.identity
    if identity is None:
        return Knowledge()
    results: Mapping[str, Any] = found.results if found is not None else {}
    law = identity.law
    room, life = (
        results.get(name) if isinstance(results.get(name), Mapping) else None
        for name in ("capacity", "lifetime")
    )
    if room is not None:
        law = CacheLaw.reported(results) or law
    reuse, salt = identity.facts.get("reuse"), identity.facts.get("salt")
    return Knowledge(
        law=law,
        cache_on=None if reuse is None else reuse.holds,
        capacity_low=None if room is None else room.get("tokens_low"),
        capacity_high=None if room is None else room.get("tokens_high"),
        ttl_low_s=None if life is None else life.get("ttl_s_low"),
        ttl_high_s=None if life is None else life.get("ttl_s_high"),
        tenants_share=None if salt is None or salt.holds is None else not salt.holds,
        by_use=None if room is None else room.get("policy") in ("lru", "leaf_first", "lru_unhashed_first"),
        # The embedded server takes requests of this user's runs alone.
        others=identity.url != "embedded",
    )


def cause_of(one: Sent, earlier: Sequence[Sent], known: Knowledge) -> Cause:
    """Return why a request read no more than it did.

    Args:
        one: The request.
        earlier: Those that had been answered when it was sent, or more.
        known: Of the server.
    """
    before = [other.request for other in earlier if other.done_s <= one.request.sent_s]
    before = list({other.request_id: other for other in before}.values())
    if len(before) >= _MOST_EARLIER:  # what was sent before these may have taken room, too
        known = replace(known, capacity_low=None)
    before.sort(key=lambda other: other.sent_s)
    cause = explain(one.request, before, known)
    if one.exact or known.law is None or cause.earlier is None:
        return cause
    length, shared, cached = len(one.request.tokens), cause.shared_tokens, one.request.cached_tokens or 0
    if shared == length:
        return cause
    least, most = (
        known.law.predict(length, min(length - 1, round(shared * share))) for share in (1 - _OFF, 1 + _OFF)
    )
    why = cause.why.replace("token ", "about token ", 1)
    if (least > cached) != (most > cached) or cause.cause is MissCause.BELOW_GRAIN:
        why = (
            f"about {shared:,} of {length:,} tokens are those of {cause.earlier}: too close to a step to tell"
        )
        return replace(cause, cause=MissCause.UNKNOWN, why=why)
    return replace(cause, why=why)


def missed(requests: Sequence[Sent], known: Knowledge) -> Iterator[tuple[Sent, Cause]]:
    """Yield the measured requests that were expected to be hits, or to read more, and did not; with the cause."""
    index: dict[int, list[int]] = {}
    for place, one in enumerate(requests):
        marks = _marks(one.request.tokens)
        like = next((index[mark] for mark in reversed(marks) if mark in index), [])
        # The last ones alone: among thousands that begin alike, any of these shares as much.
        near = [requests[i] for i in like[-64:]]
        for mark in marks:
            index.setdefault(mark, []).append(place)
        if not one.measured or one.request.failed or one.request.cached_tokens is None or known.law is None:
            continue
        meant = one.arm in _HITS and one.state != "hit"
        if meant or _more_was_there(one, near, known.law):
            # What came between counts for room and age.
            cause = cause_of(one, [*near, *requests[max(0, place - _MOST_EARLIER) : place]], known)
            if meant or cause.cause is not MissCause.NONE:
                yield one, cause


def _more_was_there(one: Sent, near: Sequence[Sent], law: CacheLaw) -> bool:
    request, length = one.request, len(one.request.tokens)
    for other in near:
        if other.request.failed or other.done_s > request.sent_s or other.request.tenant != request.tenant:
            continue
        shared = common_prefix(other.request.tokens, request.tokens)
        sure = shared if one.exact or shared == length else round(shared * (1 - _OFF))
        if law.predict(length, sure) > (request.cached_tokens or 0):
            return True
    return False


def _marks(tokens: Sequence[int]) -> list[int]:
    """Return what a prompt begins with, at each of some places, as one number a place."""
    marks, digest = [], hashlib.blake2b(digest_size=8)
    for start in range(0, len(tokens), _STRIDE):
        digest.update(repr(tokens[start : start + _STRIDE]).encode())
        marks.append(int.from_bytes(digest.digest(), "big"))
    # Prompts that are shorter than the first place are looked up by their very first tokens.
    return [hash(tuple(tokens[:4])), *marks]


def why(data: "RunData", request_a: str, request_b: str, found: Findings | None = None) -> Cause:
    """Return why ``request_b`` read no more from the cache than it did, though ``request_a`` was sent before it.

    Raises:
        InputError: The run has no such request, its prompt is not stored, or a was not sent before b.
    """
    requests = sent(data)
    by_id = {one.request.request_id: one for one in requests}
    for name, request_id in (("request_a", request_a), ("request_b", request_b)):
        if request_id not in by_id:
            fix = (
                "is no request of this run whose prompt is stored; see the column request_id of requests.csv"
            )
            raise InputError(name, request_id, fix)
    one, other = by_id[request_a], by_id[request_b]
    if one.request.sent_s >= other.request.sent_s:
        raise InputError("request_a", request_a, "was not sent before request_b; exchange them")
    # What shares more than the one that is asked about would answer for it.
    limit = common_prefix(one.request.tokens, other.request.tokens)
    rest = [r for r in requests if r is one or common_prefix(r.request.tokens, other.request.tokens) <= limit]
    return cause_of(other, rest, knowledge(data, found))


# Report -----------------------------------------------------------------------------------------------


def said(data: "RunData", found: Findings) -> Findings:
    """Return findings with a table of the causes, where there is anything to explain."""
    if not data.sql.execute("SELECT 1 FROM prompts LIMIT 1").fetchone():
        return found
    causes = list(itertools.islice(missed(sent(data), knowledge(data, found)), _MOST_CAUSES))
    if not causes:
        return found
    counts = Counter(str(cause.cause) for _, cause in causes)
    rows = [
        {
            "request_id": one.request.request_id,
            "prompt_tokens": len(one.request.tokens),
            "cached_tokens": one.request.cached_tokens,
            "expected_tokens": cause.expected_tokens,
            "cause": str(cause.cause),
            "why": cause.why,
        }
        for one, cause in causes[:_MOST_ROWS]
    ]
    table = Table(
        name="misses",
        title=TITLE,
        columns=["request_id", "prompt_tokens", "cached_tokens", "expected_tokens", "cause", "why"],
        rows=rows,
        headers={"expected_tokens": "By the law", "cause": "Cause", "why": "How we know"},
        note=f"{'At least ' * (len(causes) >= _MOST_CAUSES)}{len(causes):,} requests read less than expected: "
        + ", ".join(f"{n:,} {name}" for name, n in counts.most_common())
        + (f"; the first {_MOST_ROWS} are shown" if len(causes) > _MOST_ROWS else "")
        + ". Places in text prompts are estimated from characters. A cause is named only where it is the only one that "
        "the run's facts leave.",
    )
    sections = found.sections and [*found.sections, Section(title=TITLE, tables=["misses"])]
    return replace(found, tables=[*found.tables, table], sections=sections)
