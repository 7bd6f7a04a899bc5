"""One size, tried on servers that mislead: whatever they say, what they did not read is not held."""

from types import SimpleNamespace

import pytest

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.metrics import ServerView
from kvlab.evidence import Evidence, classify
from kvlab.experiments.context_limit_probe.bench import Bench
from kvlab.experiments.context_limit_probe.estimate import estimate
from kvlab.experiments.context_limit_probe.ledger import Ledger
from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.experiments.context_limit_probe.probe import try_size
from kvlab.experiments.context_limit_probe.search import Scale, bracket, confirmed, next_size
from kvlab.records import Recorded, Trial
from kvlab.store.database import Database
from kvlab.taxonomy import ErrorType
from kvlab.timing.request import Failure, Measurement
from kvlab.timing.stamps import Stamps
from kvlab.timing.stream import Generation
from tests.store.test_database import fill

LIMIT = 2000
PARAMS = ContextLimitProbeParams(decode_tokens=8, cut_steps=20, needles=0)
TRIAL = Trial("t0", "p", 1)
EMPTY = Failure(ErrorType.EMPTY_OUTPUT, "the stream carried no token")


def answered(counted, completion, failure=None):
    usage = {"prompt_tokens": counted, "completion_tokens": completion}
    usage = {name: value for name, value in usage.items() if value is not None}
    generation = None if failure else Generation(text="x", usage=usage, ended=True, finish_reason="length")
    return Measurement(Stamps(sent_ns=1, first_token_ns=2, done_ns=3), generation, failure, 200, usage)


def refused(words, status=400):
    return Measurement(
        Stamps(sent_ns=1, done_ns=3), None, Failure(ErrorType.REFUSED_INPUT, words, status), status
    )


class Server:
    """Takes LIMIT tokens, prompt and answer; `beyond` is what it does with more, `counts` how it counts."""

    def __init__(self, beyond, counts="all"):
        self.beyond, self.counts, self.cache, self.asked = beyond, counts, {}, 0

    def answer(self, prompt, max_tokens):
        self.asked += 1
        tokens = 40 + prompt["characters"] // 3
        cached = min(tokens - 1, self.cache.get(prompt["mark"], 0))
        if self.counts == "computed, cached from 600 on" and cached < 600:
            cached = 0
        fits = tokens + max_tokens <= LIMIT
        counted = min(tokens, LIMIT) if self.beyond == "truncates" else tokens
        if fits or self.beyond == "truncates":
            self.cache[prompt["mark"]] = max(tokens, self.cache.get(prompt["mark"], 0))
            return answered(counted - (0 if self.counts == "all" else cached), max_tokens)
        return self.beyond(tokens, max_tokens)


class Known(Bench):
    """A bench whose server is a function: prompts are their characters and a marker."""

    by_characters, exact = True, False

    def __init__(self, database, server):
        self.server, self.params = server, PARAMS
        self.identity = Identity(url="u", model="m")
        self.ledger = Ledger(database, 1)
        self.session = SimpleNamespace(
            run=SimpleNamespace(isolation_id="i"), tag=lambda trial: str(server.asked)
        )
        self.engine = SimpleNamespace(
            connection=SimpleNamespace(metrics=SimpleNamespace(scrape=lambda: None))
        )

    def guess(self):
        return Scale(((2000, 500), (200_000, 50_000)))

    def size(self, prompt):
        return prompt["characters"]

    def cut(self, size, mark=None):
        return {"characters": size, "mark": mark or "growing"}

    def wait_for_server(self):
        pass

    def preemptions(self):
        return None

    def alive(self):
        return True

    def ask(self, trial, arm, prompt, max_tokens, target=None):
        measured = self.server.answer(prompt, max_tokens)
        evidence = Evidence((measured.usage or {}).get("prompt_tokens"))
        row = Recorded(
            arm, arm, 1, prompt, {}, target, "", measured, ServerView(), evidence, classify(evidence, None)
        )
        return row if row.ok else Recorded(**{**vars(row), "expected": row.was_read})


@pytest.fixture
def bench_of(tmp_path):
    with Database(tmp_path / "run.sqlite", create=True) as database:
        fill(database)
        yield lambda server: Known(database, server)


def attempt(bench, size, max_tokens=1, **detail):
    """Try one size. Returns its requests and what became of it."""
    rows, trying = (
        [],
        try_size(bench, TRIAL, lambda mark: bench.cut(size, mark), max_tokens, "growth", **detail),
    )
    while True:
        try:
            rows.append(next(trying))
        except StopIteration as end:
            return rows, end.value[1]


def search(bench):
    """Grow, then bisect. Returns the largest held length, in the server's true tokens."""
    for exchanges, size in ((2, 900), (5, 2000), (12, 4800), (30, 12_000)):
        if bracket(confirmed(bench.ledger.probes())).failed is None:
            attempt(bench, size, PARAMS.decode_tokens, exchanges=exchanges)
    for _ in range(PARAMS.cut_steps):
        chosen = next_size(bench.ledger.probes(), PARAMS, bench.identity, bench.guess())
        if chosen.size is None:
            break
        attempt(bench, chosen.size)
    found = bracket(confirmed(bench.ledger.probes()))
    return 40 + found.held.size // 3, found


def says(words):
    return lambda tokens, max_tokens: refused(words.format(tokens=tokens, all=tokens + max_tokens))


def silent(completion, counted=None):
    return lambda tokens, max_tokens: answered(counted or tokens, completion, EMPTY)


def aborts(tokens, max_tokens):
    words = "the server gave the answer up: finish_reason 'abort'"
    return answered(tokens, 1, Failure(ErrorType.ENGINE_ERROR, words, 200))


KINDS = {
    "silent, no tokens": (silent(0), ProbeOutcome.NOTHING),
    "silent, tokens not said": (silent(None), ProbeOutcome.NOTHING),
    "silent, one token said": (silent(1), ProbeOutcome.NOTHING),
    "aborts": (aborts, ProbeOutcome.SERVER_ERROR),
    "refuses in known words": (says("maximum context length is 2000 tokens, you asked for {all}"), ProbeOutcome.REFUSED),
    "refuses in unknown words": (says("nope: {all} is more than we like"), ProbeOutcome.REFUSED),
    "refuses with an error code": (says("context length error 40013"), ProbeOutcome.REFUSED),
    "truncates": ("truncates", ProbeOutcome.TRUNCATED),
}  # fmt: skip


@pytest.mark.parametrize("counts", ["all", "computed", "computed, cached from 600 on"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_above_the_limit_is_held_and_the_limit_is_found(bench_of, kind, counts):
    beyond, outcome = KINDS[kind]
    bench = bench_of(Server(beyond, counts))
    held, found = search(bench)
    assert 0.95 * LIMIT <= held <= LIMIT
    assert found.failed.outcome is outcome
    assert abs(found.held.tokens - held) <= 0.02 * LIMIT, "what is in the cache is no reason to count less"
    wrong = [p for p in bench.ledger.probes() if p.outcome is ProbeOutcome.TRUNCATED and kind != "truncates"]
    assert wrong == []
    assert bench.counts_only_computed is (counts != "all")
    assert estimate(bench.ledger.probes(), PARAMS).maximum <= LIMIT


@pytest.mark.parametrize(("size", "outcome"), [(5877, ProbeOutcome.HELD), (5895, ProbeOutcome.NOTHING)])
def test_at_the_limit_there_is_room_for_one_token_and_that_may_have_no_text(bench_of, size, outcome):
    """Such as a special token. A little shorter, there is room for one with text; beyond the limit there is none."""

    class Clamps(Server):
        def answer(self, prompt, max_tokens):
            tokens = 40 + prompt["characters"] // 3
            made = min(max_tokens, LIMIT - tokens) if tokens < LIMIT else 1
            return answered(tokens, made, None if made > 1 else EMPTY)

    bench = bench_of(Clamps(None))
    attempt(bench, 900, 8)
    rows, found = attempt(bench, size)
    assert found is outcome
    assert [row.arm for row in rows] == ["probe", "probe-again"]
    assert all(row.ok or row.expected for row in rows)


def test_an_answer_whose_tokens_have_no_text_is_one(bench_of):
    class Reasons(Server):
        def answer(self, prompt, max_tokens):
            return answered(1000, max_tokens, EMPTY)

    assert attempt(bench_of(Reasons(None)), 2880)[1] is ProbeOutcome.HELD


def test_a_refusal_of_everything_is_no_limit(bench_of):
    """A held size is refused now, too: whatever that is, it is not the length."""
    server = Server(says("your credit is used up"))
    bench = bench_of(server)
    attempt(bench, 900)
    server.answer = lambda prompt, max_tokens: refused("your credit is used up")
    rows, outcome = attempt(bench, 3000)
    assert (outcome, rows[0].expected) == (None, False)
    assert [probe.size for probe in bench.ledger.probes()] == [900], "the size was not really tried"


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_is_no_limit(bench_of, status):
    bench = bench_of(Server(None))
    attempt(bench, 900)
    bench.server.answer = lambda prompt, max_tokens: refused("no", status)
    assert attempt(bench, 3000)[1] is None


def test_what_is_refused_before_anything_was_accepted_is_tried_shorter(bench_of):
    bench = bench_of(Server(says("too much of it")))
    assert attempt(bench, 9000)[1] is ProbeOutcome.REFUSED
    assert 0.95 * LIMIT <= search(bench)[0] <= LIMIT
