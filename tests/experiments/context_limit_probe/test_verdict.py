"""What a known run is judged to be: the ledger is made by hand, the requests are none or few."""

import json

import httpx
import pandas as pd
import pytest

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.metrics import Scrape
from kvlab.experiments import get
from kvlab.experiments.context_limit_probe import replay
from kvlab.experiments.context_limit_probe.estimate import estimate
from kvlab.experiments.context_limit_probe.in_process import theory
from kvlab.experiments.context_limit_probe.ledger import Ledger
from kvlab.experiments.context_limit_probe.memory import Memory
from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome
from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams
from kvlab.runs.data import RunData
from kvlab.stats.intervals import Interval
from kvlab.store.database import Database
from kvlab.vram.cache_usage import CacheUsage, capacity
from kvlab.vram.kv_bytes import kv_layout
from tests.experiments import stored
from tests.store.test_database import fill

PROBE = get("context_limit_probe")
PARAMS = ContextLimitProbeParams(dtypes=["float32"], replay_exchanges=0, needles=0)
ASKED = ContextLimitProbeParams(dtypes=["float32"], replay_exchanges=0)
IDENTITY = Identity(kind="vLLM", url="embedded", model="m", block_size=32, max_model_len=8192)
GROWTH = [
    (10, 1188, ProbeOutcome.HELD),
    (20, 2255, ProbeOutcome.HELD),
    (50, 5426, ProbeOutcome.HELD),
    (100, 10_713, ProbeOutcome.REFUSED),
]
CUTS = [(8192, ProbeOutcome.REFUSED), (8191, ProbeOutcome.HELD)]


class Story:
    """A run whose ledger is written by hand."""

    def __init__(self, database):
        self.database, self.book = database, Ledger(database, 1)

    def add(self, target, tokens, outcome, **detail):
        self.book.end(self.book.begin("t0", target, tokens, "growth"), outcome, **detail)

    def endpoint(self, growth=GROWTH, cuts=CUTS):
        for exchanges, tokens, outcome in growth:
            message = None if outcome is ProbeOutcome.HELD else "too long"
            self.add("endpoint", tokens, outcome, exchanges=exchanges, message=message)
        for tokens, outcome in cuts:
            self.add("endpoint", tokens, outcome)

    def quality(self, *points):
        for exchanges, tokens, right in points:
            outcome = ProbeOutcome.HELD if right >= 2 else ProbeOutcome.QUALITY_LOST
            self.add("quality", tokens, outcome, exchanges=exchanges, right=right, asked=3)

    def child(self, per_token=46_080.0, wave=0, theory=46_080):
        for index, tokens in enumerate(range(64, 1600, 64)):
            rss = round(5e8 + per_token * tokens + (wave if index % 2 else 0))
            self.add("float32", tokens, ProbeOutcome.HELD, rss_bytes=rss, theory_bytes_per_token=theory)
        self.add("float32", 1600, ProbeOutcome.OUT_OF_MEMORY)

    def child_of(self, config, dtype="float32", sizes=range(64, 3200, 64), ratio=1.01, own=1.0):
        """A child whose model has this config: it holds `ratio` times the theory, its tensors `own` times."""
        facts = theory(config, dtype)
        layout = kv_layout(config)
        for tokens in sizes:
            cache = layout.cache_bytes(tokens, dtype)
            held = {"rss_bytes": round(5e8 + ratio * cache), "cache_bytes": round(own * cache)}
            self.add(dtype, tokens, ProbeOutcome.HELD, **facts, **held)

    def judge(self, identity=IDENTITY, params=PARAMS):
        return stored.summary(PROBE, self.data(identity), params)

    def data(self, identity=IDENTITY):
        return RunData(self.database, identity=identity)

    def findings(self, identity=IDENTITY, params=PARAMS):
        return PROBE.findings(self.data(identity), params)


@pytest.fixture
def story(tmp_path):
    with Database(tmp_path / "run.sqlite", create=True) as found:
        fill(found)
        yield Story(found)


def passed(summary):
    return {check.name: check.passed for check in summary.checks}


def test_a_run_that_found_everything_passes(story):
    story.endpoint()
    story.child()
    summary = story.judge()
    assert summary.verdict == "PASS"
    assert passed(summary)["replay_never_fails"] is None, "it was not asked for"
    assert summary.results["maximum_tokens"] == 8191
    assert summary.results["constants"]["MAX_CONTEXT_TOKENS"] == 6552
    assert summary.results["tokens_per_exchange"] == 106.7
    assert summary.results["bytes_per_token"]["float32"]["ratio_to_theory"] == 1.0


def test_quality_that_is_lost_first_is_the_maximum(story):
    story.endpoint()
    story.child()
    story.quality((10, 1165, 3), (20, 2234, 2), (50, 5405, 0))
    summary = story.judge(params=ASKED)
    assert summary.results["maximum_tokens"] == 2234
    assert summary.results["constants"]["MAX_CONTEXT_TOKENS"] == 1787
    assert "no longer answered" in summary.results["rules"]["MAX_CONTEXT_TOKENS"]


@pytest.mark.parametrize("points", [(), ((10, 1165, 0), (20, 2234, 1))])
def test_quality_that_is_unknown_recommends_nothing(story, points):
    """What accepts most may read least: the largest accepted size is no safe one."""
    story.endpoint()
    story.child()
    story.quality(*points)
    summary = story.judge(params=ASKED)
    assert summary.verdict == "INVALID"
    assert summary.results["largest_accepted_tokens"] == 8191
    assert (summary.results["maximum_tokens"], summary.results["constants"]) == (None, {})
    assert summary.results["quality_held_tokens"] is None
    assert any("answered at no length" in line for line in summary.limitations)
    assert "recommended.env" not in story.findings(params=ASKED).files


@pytest.mark.parametrize(("asked_at", "maximum"), [(5405, 5405), (8080, 8191)])
def test_quality_reaches_as_far_as_it_was_asked_for(story, asked_at, maximum):
    story.endpoint()
    story.child()
    story.quality((10, 1165, 3), (50, asked_at, 3))
    results = story.judge(params=ASKED).results
    assert results["maximum_tokens"] == maximum
    assert ("no longer context" in results["maximum_because"]) is (maximum == 5405)


def test_that_quality_was_not_asked_for_stands_beside_the_constant(story):
    story.endpoint()
    summary = story.judge()
    assert "not asked" in summary.results["rules"]["MAX_CONTEXT_TOKENS"]
    assert any("needles=0" in line for line in summary.limitations)


def test_the_servers_own_sentence_stands_in_the_verdict(story):
    story.endpoint(cuts=[(8191, ProbeOutcome.HELD)])
    story.add("endpoint", 8192, ProbeOutcome.REFUSED, message="these are\ntoo many for us")
    assert "it says: these are too many for us" in story.judge().checks[0].seen


def test_growth_that_no_line_describes_fails(story):
    story.endpoint()
    story.child(wave=30_000_000)
    summary = story.judge()
    assert summary.verdict == "FAIL"
    assert passed(summary)["growth_predictable"] is False


def test_bytes_a_token_far_from_theory_fail(story):
    story.endpoint()
    story.child(per_token=60_000.0)
    assert passed(story.judge())["bytes_per_token_as_theory"] is False


TWO = ContextLimitProbeParams(dtypes=["float32", "bfloat16"], replay_exchanges=0, needles=0)


def test_children_that_died_before_a_line_make_no_pass(story):
    story.endpoint()
    for dtype in ("float32", "bfloat16"):
        story.add(dtype, 32, ProbeOutcome.CHILD_DIED)
    summary = story.judge(params=TWO)
    assert summary.verdict == "INVALID"
    assert passed(summary)["growth_predictable"] is None


@pytest.mark.parametrize(("per_token", "verdict"), [(46_080.0, "INVALID"), (60_000.0, "FAIL")])
def test_one_line_of_two_is_not_enough_to_pass_but_to_fail(story, per_token, verdict):
    story.endpoint()
    story.child(per_token=per_token)
    story.add("bfloat16", 32, ProbeOutcome.CHILD_DIED)
    assert story.judge(params=TWO).verdict == verdict


def test_a_child_that_could_not_load_is_said_and_makes_no_pass(story):
    story.endpoint()
    story.add("float32", 0, ProbeOutcome.COULD_NOT_LOAD, message="OSError: no such model")
    summary = story.judge()
    assert summary.verdict == "INVALID"
    assert any("no such model" in line for line in summary.limitations)


GEMMA_3_12B = {
    "model_type": "gemma3_text", "hidden_size": 3840, "num_attention_heads": 16, "num_hidden_layers": 48,
    "num_key_value_heads": 8, "head_dim": 256, "sliding_window": 1024,
}  # fmt: skip


def test_a_model_with_windows_grows_as_its_layers_do(story):
    story.endpoint()
    story.child_of(GEMMA_3_12B)
    summary = story.judge()
    assert summary.verdict == "PASS", summary.checks
    found = summary.results["bytes_per_token"]["float32"]
    assert (found["theory"], found["ratio_to_theory"]) == (2 * 8 * 8 * 256 * 4, 1.01)
    note = next(table for table in summary.tables if table.name == "bytes_per_token").note
    assert "40 with a window of 1024 tokens" in note
    assert "6.0 times the slope until the windows are full (1,024 tokens)" in note
    assert "no padding and no blocks; 1.0% is taken beside them" in note
    cards = next(table for table in summary.tables if table.name == "cards").rows
    free = kv_layout(GEMMA_3_12B).cache_bytes(cards[0][1], "float32") * 1.01
    assert free == pytest.approx(4 * 2**30, rel=0.001)


@pytest.mark.parametrize(
    ("ratio", "own", "said"),
    [
        (1.2, 1.2, "tensors take +20.0% beside the theory: padding, blocks"),
        (0.95, 1.0, "5.0% less: memory that was there already"),
        (1.0, 1.0, "nothing is taken beside them"),
    ],
)
def test_why_a_ratio_is_what_it_is_is_said_by_what_was_seen(story, ratio, own, said):
    story.endpoint()
    story.child_of({**GEMMA_3_12B, "model_type": "llama", "sliding_window": None}, ratio=ratio, own=own)
    assert said in next(table for table in story.judge().tables if table.name == "bytes_per_token").note


def test_an_unknown_layout_is_no_number(story):
    story.endpoint()
    facts = theory({**GEMMA_3_12B, "layer_types": ["novel"] * 48}, "float32")
    for tokens in range(64, 1600, 64):
        story.add("float32", tokens, ProbeOutcome.HELD, rss_bytes=10**9 + 46_080 * tokens, **facts)
    summary = story.judge()
    assert summary.verdict == "INVALID"
    assert "unknown layout" in next(c for c in summary.checks if c.name == "bytes_per_token_as_theory").seen
    assert summary.results["bytes_per_token"]["float32"]["ratio_to_theory"] is None


def test_the_file_says_where_its_memory_is_from(story):
    story.endpoint()
    story.child()
    content = json.loads(story.findings().files["context_limit_results.json"])
    most = content["maximum_tested_context"]
    assert (most["tokens"], most["exchanges"], most["exchanges_tokens"]) == (8191, 50, 5426)
    assert most["vram_gb"] == pytest.approx((5e8 + 46_080 * 8191) / 1e9, abs=0.001), "at these very tokens"
    assert "extrapolated at 8,191 tokens" in most["vram_source"]
    assert {(test["memory_gb"], test["memory_reason"]) for test in content["tests"]} == {
        (None, "the request is not on record")
    }


def grown(story, series, mib):
    """The endpoint's story with its memory: a baseline in the first window, a peak in the last."""
    book = story.book
    for trial, tokens in (("t0", 1000), ("t1", 9000)):
        book.end(book.begin(trial, "endpoint", tokens, "growth"), ProbeOutcome.HELD)
    windows = pd.DataFrame(
        [
            {
                "session_id": 1,
                "name": name,
                "attempt": 1,
                "series": series,
                "baseline_bytes": 2**30,
                "peak_bytes": peak,
            }
            for name, peak in (("t0", 2**30), ("t1", 2**30 + mib * 2**20))
        ]
    )
    found = estimate(book.probes(), PARAMS)
    return Memory(pd.DataFrame(), windows, pd.DataFrame()).growth_in_words(found)


@pytest.mark.parametrize(
    ("series", "mib", "said"),
    [
        ("server_rss", 1, "allocated when it started"),
        ("server_rss", 400, "grew with use"),
        ("nvml_device:0", 1, "whoever holds it"),
        ("child_rss", 1, None),
    ],
)
def test_whether_memory_was_allocated_at_the_start_is_said_of_what_was_seen(story, series, mib, said):
    lines = grown(story, series, mib)
    assert (lines == []) if said is None else (said in lines[0])


def test_a_failure_below_what_the_server_promises_fails(story):
    story.endpoint(growth=GROWTH[:2], cuts=[(4000, ProbeOutcome.OUT_OF_MEMORY), (3990, ProbeOutcome.HELD)])
    summary = story.judge()
    assert summary.verdict == "FAIL"
    assert passed(summary)["no_failure_below_expected"] is False
    assert summary.results["limit_reason"] == "out_of_memory"


def test_without_a_limit_there_is_no_answer_and_without_a_child_no_bytes(story):
    story.endpoint(growth=GROWTH[:3], cuts=[])
    summary = story.judge()
    assert summary.verdict == "INVALID"
    assert passed(summary)["growth_predictable"] is None
    assert any("elsewhere" in line for line in summary.limitations)


def test_an_empty_run_can_be_reported_and_drawn(story):
    found = story.findings(identity=None)
    assert found.verdict == "INVALID"
    assert all(picture.draw() is not None for picture in found.pictures)
    assert json.loads(found.files["context_limit_results.json"])["recommended"] == {}
    assert "recommended.env" not in found.files


def test_the_report_is_the_same_every_time(story):
    story.endpoint()
    story.child()
    assert story.judge() == story.judge()


def replay_of(*turns):
    """A replay at one interval: each turn a trim or not, and its TTFT."""
    rows = [
        {"trial_id": "replay-1.000", "used": True, "status": "ok", "error_type": None, "arm": f"{kind}-{number:05d}", "sent_ns": number,
         "ttft_ms": ttft, "prompt_tokens": 1000, "cached_tokens": 64, "cache_state": "partial"}
        for number, (kind, ttft) in enumerate(turns, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_an_interval_costs_whole_cycles(story):
    story.endpoint()
    constants = estimate(story.book.probes(), PARAMS).constants
    params = ContextLimitProbeParams(interval_factors=[1.0])
    turn, trim = ("turn", 10.0), ("trim", 100.0)
    table = replay.replays(replay_of(turn, turn, trim, turn, turn, trim, turn), constants, params)
    mean = table["mean_ttft_ms"].iloc[0]
    assert mean.estimate == 40.0, "one trim and two turns; the half cycle at the end is left out"
    assert (mean.low, mean.n) == (None, 1), "of one cycle there is no interval"
    table = replay.replays(replay_of(turn, turn, trim, turn), constants, params)
    assert table["mean_ttft_ms"].iloc[0].estimate is None


def costs(*intervals):
    """A table of replays: interval and its mean TTFT, low to high."""
    rows = [
        {
            "interval": n,
            "failed": 0,
            "mean_ttft_ms": Interval(None if low is None else (low + high) / 2, low, high, 9, 0.95),
        }
        for n, low, high in intervals
    ]
    return pd.DataFrame(rows)


def test_what_costs_least_is_apart_from_all_others_or_not_said():
    assert (
        replay.cost_in_words(costs((4, 600, 650), (7, 500, 560), (9, 400, 480)))
        == "of the intervals, 9 costs least"
    )
    for table in (costs((4, 600, 650), (9, 400, 610)), costs((4, 600, 650), (7, 400, 480), (9, 410, 490))):
        assert replay.best_interval(table) is None
        assert "do not differ measurably" in replay.cost_in_words(table)
    assert "do not differ measurably" in replay.cost_in_words(costs((4, None, None), (9, 400, 480)))
    assert replay.cost_in_words(costs((4, 600, 650))) is None
    failed = costs((4, 600, 650), (9, 400, 480)).assign(failed=[1, 0])
    assert replay.best_interval(failed) is None


def test_a_turn_answered_with_nothing_did_not_fail(story):
    story.endpoint()
    constants = estimate(story.book.probes(), PARAMS).constants
    turns = replay_of(("trim", 100.0), ("turn", 10.0), ("turn", 10.0), ("trim", 100.0))
    turns.loc[1, ["status", "error_type", "ttft_ms"]] = ["failed", "EMPTY_OUTPUT", None]
    table = replay.replays(turns, constants, ContextLimitProbeParams(interval_factors=[1.0]))
    assert (table["failed"].iloc[0], table["trims"].iloc[0]) == (0, 2)
    assert table["mean_ttft_ms"].iloc[0].estimate == 55.0, "of the turns that have a TTFT"
    turns.loc[1, "error_type"] = "TIMEOUT"
    assert (
        replay.replays(turns, constants, ContextLimitProbeParams(interval_factors=[1.0]))["failed"].iloc[0]
        == 1
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
