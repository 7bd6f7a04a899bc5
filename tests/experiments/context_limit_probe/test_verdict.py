"""What a known run is judged to be: the ledger is made by hand, the requests are none or few."""

import json

import httpx
import pandas as pd
import pytest

from kvlab.endpoint import Identity
from kvlab.experiments import get
from kvlab.experiments.context_limit_probe import analysis
from kvlab.experiments.context_limit_probe.cache_usage import CacheUsage, capacity
from kvlab.experiments.context_limit_probe.ledger import Ledger
from kvlab.experiments.context_limit_probe.outcomes import Outcome
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.serving.metrics import Scrape
from kvlab.store import frames
from kvlab.store.database import Database
from tests.store.test_database import fill

PROBE = get("context_limit_probe")
PARAMS = ContextLimitProbeParams(dtypes=["float32"], replay_exchanges=0)
IDENTITY = Identity(kind="vLLM", url="embedded", model="m", block_size=32, max_model_len=8192)
GROWTH = [
    (10, 1188, Outcome.HELD),
    (20, 2255, Outcome.HELD),
    (50, 5426, Outcome.HELD),
    (100, 10_713, Outcome.REFUSED),
]
CUTS = [(8192, Outcome.REFUSED), (8191, Outcome.HELD)]


class Story:
    """A run whose ledger is written by hand."""

    def __init__(self, database):
        self.database, self.book = database, Ledger(database, 1)

    def add(self, target, tokens, outcome, **detail):
        self.book.end(self.book.begin("t0", target, tokens, "growth"), outcome, **detail)

    def endpoint(self, growth=GROWTH, cuts=CUTS):
        for exchanges, tokens, outcome in growth:
            message = None if outcome is Outcome.HELD else "too long"
            self.add("endpoint", tokens, outcome, exchanges=exchanges, message=message)
        for tokens, outcome in cuts:
            self.add("endpoint", tokens, outcome)

    def quality(self, *points):
        for exchanges, tokens, right in points:
            outcome = Outcome.HELD if right >= 2 else Outcome.QUALITY_LOST
            self.add("quality", tokens, outcome, exchanges=exchanges, right=right, asked=3)

    def child(self, per_token=46_080.0, wave=0, theory=46_080):
        for index, tokens in enumerate(range(64, 1600, 64)):
            rss = round(5e8 + per_token * tokens + (wave if index % 2 else 0))
            self.add("float32", tokens, Outcome.HELD, rss_bytes=rss, theory_bytes_per_token=theory)
        self.add("float32", 1600, Outcome.OUT_OF_MEMORY)

    def judge(self, identity=IDENTITY):
        frame = frames.requests(self.database.sql)
        return PROBE.summarize(frame, PARAMS, "test", identity)


@pytest.fixture
def story(tmp_path):
    with Database(tmp_path / "run.sqlite", create=True) as found:
        fill(found)
        yield Story(found)


def holds(summary):
    return {check.name: check.holds for check in summary.checks}


def test_a_run_that_found_everything_passes(story):
    story.endpoint()
    story.child()
    summary = story.judge()
    assert summary.verdict == "PASS"
    assert holds(summary)["replay_never_fails"] is None, "it was not asked for"
    assert summary.results["maximum_tokens"] == 8191
    assert summary.results["constants"]["MAX_CONTEXT_TOKENS"] == 6552
    assert summary.results["tokens_per_exchange"] == 106.7
    assert summary.results["bytes_per_token"]["float32"]["ratio_to_theory"] == 1.0


def test_quality_that_is_lost_first_is_the_maximum(story):
    story.endpoint()
    story.child()
    story.quality((10, 1165, 3), (20, 2234, 2), (50, 5405, 0))
    summary = story.judge()
    assert summary.results["maximum_tokens"] == 2234
    assert summary.results["constants"]["MAX_CONTEXT_TOKENS"] == 1787
    assert "no longer answered" in summary.results["rules"]["MAX_CONTEXT_TOKENS"]


def test_quality_that_never_held_is_unknown_and_not_zero(story):
    story.endpoint()
    story.child()
    story.quality((10, 1165, 0), (20, 2234, 1))
    summary = story.judge()
    assert summary.results["maximum_tokens"] == 8191
    assert summary.results["quality_held_tokens"] is None
    assert any("answered at no length" in line for line in summary.limitations)


def test_growth_that_no_line_describes_fails(story):
    story.endpoint()
    story.child(wave=30_000_000)
    summary = story.judge()
    assert summary.verdict == "FAIL"
    assert holds(summary)["growth_predictable"] is False


def test_bytes_a_token_far_from_theory_fail(story):
    story.endpoint()
    story.child(per_token=60_000.0)
    assert holds(story.judge())["bytes_per_token_as_theory"] is False


def test_a_failure_below_what_the_server_promises_fails(story):
    story.endpoint(growth=GROWTH[:2], cuts=[(4000, Outcome.OUT_OF_MEMORY), (3990, Outcome.HELD)])
    summary = story.judge()
    assert summary.verdict == "FAIL"
    assert holds(summary)["no_failure_below_expected"] is False
    assert summary.results["limit_reason"] == "out_of_memory"


def test_without_a_limit_there_is_no_answer_and_without_a_child_no_bytes(story):
    story.endpoint(growth=GROWTH[:3], cuts=[])
    summary = story.judge()
    assert summary.verdict == "INVALID"
    assert holds(summary)["growth_predictable"] is None
    assert any("elsewhere" in line for line in summary.limitations)


def test_an_empty_run_can_be_reported_and_drawn(story):
    frame = frames.requests(story.database.sql)
    summary = PROBE.summarize(frame, PARAMS, "test", None)
    assert summary.verdict == "INVALID"
    assert set(PROBE.draw(frame, summary, PARAMS)) == {figure.name for figure in summary.figures}
    bare = pd.DataFrame(columns=frames.REQUEST_COLUMNS).astype({"arm": str, "used": bool})
    assert set(PROBE.draw(bare, summary, PARAMS)) == {figure.name for figure in summary.figures}
    exported = PROBE.exports(frame, PARAMS, {"created_utc": "now"}, None)
    assert json.loads(exported["context_limit_results.json"])["recommended"] == {}
    assert "recommended.env" not in exported


def test_the_report_is_the_same_every_time(story):
    story.endpoint()
    story.child()
    assert story.judge() == story.judge()


def replayed(*turns):
    """A replay at one interval: each turn a trim or not, and its TTFT."""
    rows = [
        {"trial_id": "replay-1.000", "used": True, "status": "ok", "error_type": None, "arm": f"{kind}-{number:05d}", "sent_ns": number,
         "ttft_ms": ttft, "prompt_tokens": 1000, "cached_tokens": 64, "cache_state": "partial"}
        for number, (kind, ttft) in enumerate(turns, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_an_interval_costs_whole_cycles(story):
    story.endpoint()
    found = analysis.findings(analysis.read_probes(frames.requests(story.database.sql)), PARAMS)
    params = ContextLimitProbeParams(interval_factors=[1.0])
    turn, trim = ("turn", 10.0), ("trim", 100.0)
    table = analysis.replays(replayed(turn, turn, trim, turn, turn, trim, turn), found, params)
    assert table["mean_ttft_ms"].iloc[0] == 40.0, (
        "one trim and two turns; the half cycle at the end is left out"
    )
    assert analysis.best_interval(table)["factor"] == 1.0
    table = analysis.replays(replayed(turn, turn, trim, turn), found, params)
    assert pd.isna(table["mean_ttft_ms"].iloc[0])
    assert analysis.best_interval(table) is None


def test_a_turn_answered_with_nothing_did_not_fail(story):
    story.endpoint()
    found = analysis.findings(analysis.read_probes(frames.requests(story.database.sql)), PARAMS)
    turns = replayed(("trim", 100.0), ("turn", 10.0), ("turn", 10.0), ("trim", 100.0))
    turns.loc[1, ["status", "error_type", "ttft_ms"]] = ["failed", "EMPTY_OUTPUT", None]
    table = analysis.replays(turns, found, ContextLimitProbeParams(interval_factors=[1.0]))
    assert (table["failed"].iloc[0], table["trims"].iloc[0]) == (0, 2)
    assert table["mean_ttft_ms"].iloc[0] == 55.0, "of the turns that have a TTFT"
    turns.loc[1, "error_type"] = "TIMEOUT"
    assert (
        analysis.replays(turns, found, ContextLimitProbeParams(interval_factors=[1.0]))["failed"].iloc[0] == 1
    )


CONFIG = 'vllm:cache_config_info{block_size="32",num_gpu_blocks="2912",kv_cache_memory_bytes="1000"} 1.0\n'


def test_a_servers_cache_is_what_it_says():
    assert capacity(Scrape.parse(CONFIG)) == {"tokens": 2912 * 32, "bytes": 1000, "blocks": 2912}
    assert capacity(None) == {"tokens": None, "bytes": None, "blocks": None}


def test_the_cache_in_use_is_a_share_of_its_size_once_a_second():
    page = CONFIG + 'vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25\n'
    http = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, text=page)))
    sampler = CacheUsage(http, "http://x/metrics", 1000)
    assert [tuple(reading) for reading in sampler.read()] == [("server_kv_cache", 250, 1000)]
    assert sampler.read() == [], "not again at once"
    assert "how large" in CacheUsage(http, "http://x/metrics", None).reason
